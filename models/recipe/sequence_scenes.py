"""Scenes of several pictures and of videos."""

import numpy as np

from models.recipe import phrases as say
from models.recipe.drawing import SHAPES, Canvas, Rng
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
    single_size,
    single_turn,
)


def several_images(rng: Rng, count: int, large: bool) -> Scene:
    """Two or three pictures of one shape each: which one shows a thing, what the n-th one shows, same or
    not.
    """
    dark = bool(rng.random() < 0.2)
    colours = shuffled_colours(rng, dark)
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    things = [Thing(shapes[i], colours[i]) for i in range(count)]
    kin = rng.random()
    if count == 2 and kin < 0.3:
        things[1] = Thing(shapes[0], colours[1])
    elif count == 2 and kin < 0.6:
        things[1] = Thing(shapes[1], colours[0])
    pictures = tuple(draw_one(rng, _picture_size(rng, large), dark, t) for t in things)
    dialogues = [
        single_turn("each_image", ask(rng, say.EACH_IMAGE), say.listed([say.article(t.name) for t in things]))
    ]
    for _ in range(4):
        i = int(rng.integers(count))
        named = [things[i].name]
        if sum(t.shape == things[i].shape for t in things) == 1:
            named.append(things[i].shape)
        question = ask(rng, say.WHICH_IMAGE, thing=pick(rng, named))
        dialogues.append(single_turn("which_image", question, str(i + 1)))
    i = int(rng.integers(count))
    nth, thing = say.ORDINALS[i], things[i]
    dialogues += [
        single_turn("nth_image", ask(rng, say.NTH_COLOUR, nth=nth), thing.colour),
        single_turn("nth_image", ask(rng, say.NTH_SHAPE, nth=nth), thing.shape),
        single_turn("nth_image", ask(rng, say.NTH_THING, nth=nth), say.article(thing.name)),
    ]
    if count == 2:
        for what, whats, same in (
            ("colour", "colours", things[0].colour == things[1].colour),
            ("shape", "shapes", things[0].shape == things[1].shape),
        ):
            question = ask(rng, say.SAME, what=what, whats=whats)
            dialogues.append(single_turn("compare", question, "yes" if same else "no"))
    return Scene("images", pictures, tuple(dialogues))


def compare_counts(rng: Rng, large: bool) -> Scene:
    """Two pictures of equal shapes in different number."""
    dark = bool(rng.random() < 0.2)
    shape = pick(rng, SHAPES)
    more, fewer = sorted((int(n) for n in rng.permutation(6)[:2] + 1), reverse=True)
    first_has_more = bool(rng.random() < 0.5)
    counts = (more, fewer) if first_has_more else (fewer, more)
    pictures = []
    for n in counts:
        colours = shuffled_colours(rng, dark)[:2]
        things = [Thing(shape, pick(rng, colours), int(p)) for p in sorted(rng.permutation(9)[:n])]
        pictures.append(draw_things(rng, _picture_size(rng, large), dark, things))
    shapes = say.plural(shape)
    names = [f"the {say.ORDINALS[i]} image" for i in (0, 1)]
    best = names[0] if first_has_more else names[1]
    least = names[1] if first_has_more else names[0]
    i = int(rng.integers(2))
    dialogues = [
        single_turn("compare", ask(rng, say.MORE, shapes=pick(rng, (shapes, "shapes"))), best),
        single_turn("compare", ask(rng, say.FEWER, shapes=pick(rng, (shapes, "shapes"))), least),
        single_turn(
            "nth_count", f"How many {shapes} are in the {say.ORDINALS[i]} image?", say.NUMBERS[counts[i]]
        ),
    ]
    return Scene("images", tuple(pictures), tuple(dialogues))


def _picture_size(rng: Rng, large: bool) -> Size:
    """One of several pictures: one tile, or four and a thumbnail."""
    if not large:
        return single_size(rng)
    side = int(rng.integers(180, 257))
    return side, side


def slides(rng: Rng, frames: int) -> Scene:
    """A video that shows one shape after another."""
    dark = bool(rng.random() < 0.2)
    colours = shuffled_colours(rng, dark)
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))][:frames]
    things = [Thing(s, c) for s, c in zip(shapes, colours, strict=False)]
    pictures = tuple(draw_one(rng, (112, 112), dark, t) for t in things)
    named, three = rng.integers(0, len(things), 4), int(rng.integers(len(things)))
    absent = [s for s in SHAPES if s not in shapes]
    dialogues = [
        single_turn("which_frame", ask(rng, say.WHICH_FRAME, shape=things[i].shape), str(i + 1))
        for i in named
    ]
    dialogues += [
        single_turn("in_frame", ask(rng, say.IN_FRAME, n=str(three + 1)), say.article(things[three].name)),
    ]
    if absent and rng.random() < 0.5:
        dialogues.append(single_turn("in_video", ask(rng, say.IN_VIDEO, shape=pick(rng, absent)), "no"))
    elif absent:
        dialogues.append(
            single_turn("in_video", ask(rng, say.IN_VIDEO, shape=pick(rng, things).shape), "yes")
        )
    if frames <= 4:
        each = say.listed([say.article(t.name) for t in things])
        dialogues.append(single_turn("each_frame", ask(rng, say.EACH_FRAME), each))
    return Scene("video", pictures, tuple(dialogues))


def motion(rng: Rng, frames: int) -> Scene:
    """A video in which one shape moves straight left, right, up or down."""
    dark = bool(rng.random() < 0.2)
    colours = shuffled_colours(rng, dark)
    thing = Thing(pick(rng, SHAPES), colours[0])
    direction = pick(rng, tuple(say.DIRECTIONS))
    dx, dy = say.DIRECTIONS[direction]
    radius = rng.uniform(11, 18)
    reach = rng.uniform(22, 54 - radius)
    across = rng.uniform(-34, 34)
    middle = rng.uniform(-(54 - radius - reach), 54 - radius - reach) if reach < 54 - radius else 0.0
    pictures = []
    seed = int(rng.integers(2**31))
    for i in range(frames):
        along = middle + reach * (2 * i / (frames - 1) - 1)
        canvas = Canvas(np.random.default_rng(seed), 112, 112, dark)
        x = 56 + (dx * along if dx else across)
        y = 56 + (dy * along if dy else across)
        canvas.shape(thing.shape, thing.colour, x, y, radius)
        pictures.append(canvas.finish())
    dialogues = [
        single_turn("motion", ask(rng, say.MOVES, shape=thing.shape), direction),
        single_turn("motion", ask(rng, say.MOVES, shape=thing.shape), direction),
        single_turn("what_moves", ask(rng, say.WHAT_MOVES), say.article(thing.name)),
        Dialogue(
            "second_turn",
            (
                (ask(rng, say.WHAT_MOVES), say.article(thing.name)),
                (ask(rng, say.MOVES, shape=thing.shape), direction),
            ),
        ),
    ]
    return Scene("video", tuple(pictures), tuple(dialogues))
