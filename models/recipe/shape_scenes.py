"""Scenes of one picture with shapes: what, which colour, where, how many, is there."""

from models.recipe import phrases as say
from models.recipe.drawing import SHAPES, Rng
from models.recipe.scene_parts import (
    Dialogue,
    Scene,
    Size,
    Thing,
    ask,
    draw_one,
    draw_things,
    pick,
    shuffled_colours,
    single_turn,
)


def one_shape(rng: Rng, size: Size) -> Scene:
    """One shape: its colour, its form, whether something is there, a caption."""
    dark = bool(rng.random() < 0.3)
    colours = shuffled_colours(rng, dark)
    thing = Thing(pick(rng, SHAPES), colours[0])
    dialogues = [
        single_turn("colour", ask(rng, say.COLOUR_ONE, shape=thing.shape), thing.colour),
        single_turn("colour", ask(rng, say.COLOUR_ONLY), thing.colour),
        single_turn("shape", ask(rng, say.SHAPE_ONLY), thing.shape),
        single_turn("shape", ask(rng, say.SHAPE_OF, colour=thing.colour), thing.shape),
        single_turn("caption", ask(rng, say.CAPTION), say.article(thing.name)),
        presence(rng, [thing], colours),
        shape_presence(rng, [thing]),
        Dialogue(
            "second_turn",
            ((ask(rng, say.SHAPE_ONLY), thing.shape), (ask(rng, say.IT_COLOUR), thing.colour)),
        ),
    ]
    return Scene("image", (draw_one(rng, size, dark, thing),), tuple(dialogues))


def several_shapes(rng: Rng, size: Size) -> Scene:
    """Two to five shapes, all different in form and colour, each in its own place."""
    dark = bool(rng.random() < 0.3)
    colours = shuffled_colours(rng, dark)
    n = int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.3, 0.3, 0.15, 0.15]))
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:n]]
    places = sorted(int(p) for p in rng.permutation(9)[:n])
    things = [Thing(s, c, p) for s, c, p in zip(shapes, colours, places, strict=False)]
    one, two = pick(rng, things), pick(rng, things)
    place, at = say.PLACES[one.place], say.PLACES[two.place]
    dialogues = [
        single_turn("position", ask(rng, say.WHERE, shape=one.shape, colour=one.colour), place),
        single_turn("position", ask(rng, say.WHERE, shape=two.shape, colour=two.colour), at),
        single_turn("attribute", ask(rng, say.COLOUR_ONE, shape=two.shape), two.colour),
        single_turn("attribute", ask(rng, say.SHAPE_OF, colour=one.colour), one.shape),
        single_turn("attribute", ask(rng, say.AT_PLACE, place=at), say.article(two.name)),
        single_turn("attribute", ask(rng, say.COLOUR_AT, place=place), one.colour),
        presence(rng, things, colours),
        shape_presence(rng, things),
        single_turn("count", ask(rng, say.COUNT_ALL), say.NUMBERS[n]),
        _follow_up(rng, one),
        _follow_up(rng, two),
    ]
    if n <= 3:
        caption = say.listed([say.article(t.name) for t in things])
        dialogues += [single_turn("caption", ask(rng, say.CAPTION), caption)] * 3
    return Scene("image", (draw_things(rng, size, dark, things),), tuple(dialogues))


def _follow_up(rng: Rng, thing: Thing) -> Dialogue:
    """A second turn that says "it" and is answered only by looking at the thing of the first turn."""
    place = say.PLACES[thing.place]
    first = [
        ((ask(rng, say.SHAPE_OF, colour=thing.colour), thing.shape), ("place",)),
        ((ask(rng, say.COLOUR_ONE, shape=thing.shape), thing.colour), ("place",)),
        ((ask(rng, say.WHERE, shape=thing.shape, colour=thing.colour), place), ("colour", "shape")),
    ]
    turn, follow = pick(rng, first)
    what = pick(rng, follow)
    if what == "colour" and thing.colour in turn[0]:
        what = "shape"
    elif what == "shape" and thing.shape in turn[0]:
        what = "colour"
    then = {
        "place": (ask(rng, say.IT_PLACE), place),
        "colour": (ask(rng, say.IT_COLOUR), thing.colour),
        "shape": (ask(rng, say.IT_SHAPE), thing.shape),
    }[what]
    return Dialogue("second_turn", (turn, then))


def crowd(rng: Rng, size: Size) -> Scene:
    """One to six shapes of two or three forms, to be counted."""
    dark = bool(rng.random() < 0.3)
    colours = shuffled_colours(rng, dark)[:3]
    forms = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    counts = [
        int(rng.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.25, 0.15])),
        int(rng.choice(3, p=[0.25, 0.45, 0.3])),
    ]
    places = [int(p) for p in rng.permutation(9)]
    one_colour_a_form = rng.random() < 0.6
    things = [
        Thing(forms[k], colours[k] if one_colour_a_form else pick(rng, colours), places.pop())
        for k, n in enumerate(counts)
        for _ in range(n)
    ]
    things.sort(key=lambda thing: thing.place)
    first, second = say.plural(forms[0]), say.plural(forms[1])
    one, two = say.NUMBERS[counts[0]], say.NUMBERS[counts[1]]
    dialogues = [
        single_turn("count", ask(rng, say.COUNT_SHAPE, shapes=first), one),
        single_turn("count", ask(rng, say.COUNT_SHAPE, shapes=second), two),
        single_turn("count", ask(rng, say.COUNT_ALL), say.NUMBERS[len(things)]),
        presence(rng, things, colours),
        shape_presence(rng, things),
        Dialogue(
            "second_turn",
            (
                (ask(rng, say.COUNT_SHAPE, shapes=first), one),
                (ask(rng, say.AND_COUNT, shapes=second), two),
            ),
        ),
    ]
    if one_colour_a_form:
        dialogues.append(single_turn("count", ask(rng, say.COUNT_COLOUR, colour=colours[0]), one))
    return Scene("image", (draw_things(rng, size, dark, things),), tuple(dialogues))


def _absent_thing(rng: Rng, things: list[Thing], colours: list[str]) -> Thing:
    """A thing not in the picture, most often a near miss: a shape or a colour of it is there."""
    names = {t.name for t in things}
    while True:
        shape = pick(rng, [t.shape for t in things]) if rng.random() < 0.5 else pick(rng, SHAPES)
        colour = pick(rng, [t.colour for t in things]) if rng.random() < 0.5 else pick(rng, colours)
        if f"{colour} {shape}" not in names:
            return Thing(shape, colour)


def presence(rng: Rng, things: list[Thing], colours: list[str]) -> Dialogue:
    if rng.random() < 0.5:
        return single_turn("presence", ask(rng, say.PRESENT, thing=pick(rng, things).name), "yes")
    return single_turn(
        "presence", ask(rng, say.PRESENT, thing=_absent_thing(rng, things, colours).name), "no"
    )


def shape_presence(rng: Rng, things: list[Thing]) -> Dialogue:
    present = {t.shape for t in things}
    here = rng.random() < 0.5
    options = [s for s in SHAPES if (s in present) == here]
    return single_turn("presence", ask(rng, say.PRESENT, thing=pick(rng, options)), "yes" if here else "no")
