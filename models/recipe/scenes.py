"""Scenes: pictures together with questions about them that have one right answer.

A scene function draws pictures with `rng` and returns every dialogue it can justify; the trainer picks a few of them,
the held-out generator picks one of the skill it measures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from models.recipe import phrases as say
from models.recipe.drawing import (
    CHARACTERS,
    COLOUR_NAMES,
    DARK_INKS,
    LIGHT_INKS,
    SHAPES,
    Canvas,
    Picture,
    Rng,
    is_visible,
    text_width,
)
from models.recipe.fonts import FONT_NAMES
from models.recipe.geometry import choose_grid


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One or more (question, answer) turns about the same pictures, filed under a skill."""

    skill: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """`kind` is "image", "images", "video" or "text" and fixes how the prompt names the pictures."""

    kind: str
    pictures: tuple[Picture, ...]
    dialogues: tuple[Dialogue, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape to draw: what, in which colour, in which of the nine places (row-major)."""

    shape: str
    colour: str
    place: int = 4

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard the texts are: faces, pixel sizes, share of random letter strings, most digits and letters."""

    fonts: int = len(FONT_NAMES)
    min_size: int = 24
    max_size: int = 40
    random_letters: float = 0.4
    max_digits: int = 4
    max_letters: int = 5
    colourful: bool = True


EASY = Difficulty(fonts=2, min_size=28, max_size=38, max_digits=2, max_letters=3, random_letters=0.7, colourful=False)
FULL = Difficulty()

Size = tuple[int, int]
T = TypeVar("T")


def _pick(rng: Rng, options: tuple[T, ...] | list[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _ask(rng: Rng, options: tuple[str, ...], **slots: str) -> str:
    question = _pick(rng, options).format(**slots)
    if rng.random() < 0.4:
        question = question.replace("colour", "color")
    if question.endswith("?") and rng.random() < 0.06:
        question = question[:-1]
    return question


def _dialogue(skill: str, question: str, answer: str) -> Dialogue:
    return Dialogue(skill, ((question, answer),))


def single_size(rng: Rng) -> Size:
    """Canvas sizes that the tiling rule keeps as one tile."""
    if rng.random() < 0.75:
        return 112, 112
    side = int(rng.integers(100, 149))
    return side, int(np.clip(side + rng.integers(-8, 9), 96, 150))


def _colours(rng: Rng, dark: bool) -> list[str]:
    names = [c for c in COLOUR_NAMES if is_visible(c, dark)]
    return [names[i] for i in rng.permutation(len(names))]


def _put(canvas: Canvas, rng: Rng, thing: Thing) -> None:
    cell_w, cell_h = canvas.width / 3, canvas.height / 3
    cell = min(cell_w, cell_h)
    radius = cell * rng.uniform(0.28, 0.42)
    x = (thing.place % 3 + 0.5) * cell_w + rng.uniform(-0.08, 0.08) * cell_w
    y = (thing.place // 3 + 0.5) * cell_h + rng.uniform(-0.08, 0.08) * cell_h
    canvas.shape(thing.shape, thing.colour, x, y, radius)


def _draw_things(rng: Rng, size: Size, dark: bool, things: list[Thing]) -> Picture:
    canvas = Canvas(rng, *size, dark)
    for thing in things:
        _put(canvas, rng, thing)
    return canvas.finish()


def _draw_one(rng: Rng, size: Size, dark: bool, thing: Thing) -> Picture:
    """One shape alone, larger and freely placed."""
    canvas = Canvas(rng, *size, dark)
    unit = min(size)
    radius = unit * rng.uniform(0.13, 0.3)
    x = rng.uniform(radius * 1.15, size[0] - radius * 1.15)
    y = rng.uniform(radius * 1.15, size[1] - radius * 1.15)
    canvas.shape(thing.shape, thing.colour, x, y, radius)
    return canvas.finish()


def _absent_thing(rng: Rng, things: list[Thing], colours: list[str]) -> Thing:
    """A thing not in the picture, most often a near miss: a shape or a colour of it is there."""
    names = {t.name for t in things}
    while True:
        shape = _pick(rng, [t.shape for t in things]) if rng.random() < 0.5 else _pick(rng, SHAPES)
        colour = _pick(rng, [t.colour for t in things]) if rng.random() < 0.5 else _pick(rng, colours)
        if f"{colour} {shape}" not in names:
            return Thing(shape, colour)


def _presence(rng: Rng, things: list[Thing], colours: list[str]) -> Dialogue:
    if rng.random() < 0.5:
        return _dialogue("presence", _ask(rng, say.PRESENT, thing=_pick(rng, things).name), "yes")
    return _dialogue("presence", _ask(rng, say.PRESENT, thing=_absent_thing(rng, things, colours).name), "no")


def _shape_presence(rng: Rng, things: list[Thing]) -> Dialogue:
    present = {t.shape for t in things}
    here = rng.random() < 0.5
    options = [s for s in SHAPES if (s in present) == here]
    return _dialogue("presence", _ask(rng, say.PRESENT, thing=_pick(rng, options)), "yes" if here else "no")


def one_shape(rng: Rng, size: Size) -> Scene:
    """One shape: its colour, its form, whether something is there, a caption."""
    dark = bool(rng.random() < 0.3)
    colours = _colours(rng, dark)
    thing = Thing(_pick(rng, SHAPES), colours[0])
    dialogues = [
        _dialogue("colour", _ask(rng, say.COLOUR_ONE, shape=thing.shape), thing.colour),
        _dialogue("colour", _ask(rng, say.COLOUR_ONLY), thing.colour),
        _dialogue("shape", _ask(rng, say.SHAPE_ONLY), thing.shape),
        _dialogue("shape", _ask(rng, say.SHAPE_OF, colour=thing.colour), thing.shape),
        _dialogue("caption", _ask(rng, say.CAPTION), say.article(thing.name)),
        _presence(rng, [thing], colours),
        _shape_presence(rng, [thing]),
        Dialogue("second_turn", ((_ask(rng, say.SHAPE_ONLY), thing.shape), (_ask(rng, say.IT_COLOUR), thing.colour))),
    ]
    return Scene("image", (_draw_one(rng, size, dark, thing),), tuple(dialogues))


def several_shapes(rng: Rng, size: Size) -> Scene:
    """Two to five shapes, all different in form and colour, each in its own place."""
    dark = bool(rng.random() < 0.3)
    colours = _colours(rng, dark)
    n = int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.3, 0.3, 0.15, 0.15]))
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:n]]
    places = sorted(int(p) for p in rng.permutation(9)[:n])
    things = [Thing(s, c, p) for s, c, p in zip(shapes, colours, places, strict=False)]
    one, two = _pick(rng, things), _pick(rng, things)
    place, at = say.PLACES[one.place], say.PLACES[two.place]
    dialogues = [
        _dialogue("position", _ask(rng, say.WHERE, shape=one.shape, colour=one.colour), place),
        _dialogue("position", _ask(rng, say.WHERE, shape=two.shape, colour=two.colour), at),
        _dialogue("attribute", _ask(rng, say.COLOUR_ONE, shape=two.shape), two.colour),
        _dialogue("attribute", _ask(rng, say.SHAPE_OF, colour=one.colour), one.shape),
        _dialogue("attribute", _ask(rng, say.AT_PLACE, place=at), say.article(two.name)),
        _dialogue("attribute", _ask(rng, say.COLOUR_AT, place=place), one.colour),
        _presence(rng, things, colours),
        _shape_presence(rng, things),
        _dialogue("count", _ask(rng, say.COUNT_ALL), say.NUMBERS[n]),
        _follow_up(rng, one),
        _follow_up(rng, two),
    ]
    if n <= 3:
        caption = say.listed([say.article(t.name) for t in things])
        dialogues += [_dialogue("caption", _ask(rng, say.CAPTION), caption)] * 2
    return Scene("image", (_draw_things(rng, size, dark, things),), tuple(dialogues))


def _follow_up(rng: Rng, thing: Thing) -> Dialogue:
    """A second turn that says "it" and is answered only by looking at the thing of the first turn."""
    place = say.PLACES[thing.place]
    first = [
        ((_ask(rng, say.SHAPE_OF, colour=thing.colour), thing.shape), ("place",)),
        ((_ask(rng, say.COLOUR_ONE, shape=thing.shape), thing.colour), ("place",)),
        ((_ask(rng, say.WHERE, shape=thing.shape, colour=thing.colour), place), ("colour", "shape")),
    ]
    turn, follow = _pick(rng, first)
    what = _pick(rng, follow)
    if what == "colour" and thing.colour in turn[0]:
        what = "shape"
    elif what == "shape" and thing.shape in turn[0]:
        what = "colour"
    then = {
        "place": (_ask(rng, say.IT_PLACE), place),
        "colour": (_ask(rng, say.IT_COLOUR), thing.colour),
        "shape": (_ask(rng, say.IT_SHAPE), thing.shape),
    }[what]
    return Dialogue("second_turn", (turn, then))


def crowd(rng: Rng, size: Size) -> Scene:
    """One to six shapes of two or three forms, to be counted."""
    dark = bool(rng.random() < 0.3)
    colours = _colours(rng, dark)[:3]
    forms = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    counts = [int(rng.integers(1, 5)), int(rng.integers(0, 3))]
    places = [int(p) for p in rng.permutation(9)]
    things = [
        Thing(forms[k], _pick(rng, colours), places.pop()) for k, n in enumerate(counts) for _ in range(n)
    ]
    colour = _pick(rng, things).colour
    of_colour = sum(t.colour == colour for t in things)
    first, second = say.plural(forms[0]), say.plural(forms[1])
    one, two = say.NUMBERS[counts[0]], say.NUMBERS[counts[1]]
    dialogues = [
        _dialogue("count", _ask(rng, say.COUNT_SHAPE, shapes=first), one),
        _dialogue("count", _ask(rng, say.COUNT_SHAPE, shapes=second), two),
        _dialogue("count", _ask(rng, say.COUNT_COLOUR, colour=colour), say.NUMBERS[of_colour]),
        _dialogue("count", _ask(rng, say.COUNT_ALL), say.NUMBERS[len(things)]),
        _presence(rng, things, colours),
        _shape_presence(rng, things),
        Dialogue(
            "second_turn",
            (
                (_ask(rng, say.COUNT_SHAPE, shapes=first), one),
                (_ask(rng, say.AND_COUNT, shapes=second), two),
            ),
        ),
    ]
    return Scene("image", (_draw_things(rng, size, dark, things),), tuple(dialogues))


def _some_text(rng: Rng, level: Difficulty) -> tuple[str, str]:
    """("number" or "word", the text itself)."""
    if rng.random() < 0.4:
        digits = int(rng.integers(1, level.max_digits + 1))
        return "number", "".join(CHARACTERS[i] for i in rng.integers(0, 10, digits))
    if rng.random() < level.random_letters:
        letters = int(rng.integers(2 if level.max_letters > 3 else 1, level.max_letters + 1))
        return "word", "".join(CHARACTERS[i] for i in rng.integers(10, 36, letters))
    return "word", _pick(rng, [w for w in say.WORDS if len(w) <= level.max_letters])


def _ink(rng: Rng, level: Difficulty, dark: bool) -> str:
    if not level.colourful:
        return "white" if dark else "black"
    return _pick(rng, LIGHT_INKS if dark else DARK_INKS)


def written(rng: Rng, size: Size, level: Difficulty) -> Scene:
    """One number or one word, large enough to read in the first view."""
    dark = bool(level.colourful and rng.random() < 0.25)
    what, text = _some_text(rng, level)
    font = _pick(rng, FONT_NAMES[: level.fonts])
    scale = min(size) / 112
    largest = int(level.max_size * scale)
    smallest = int(level.min_size * scale)
    while largest > smallest and text_width(text, font, largest) > 0.92 * size[0]:
        largest -= 1
    pixels = int(rng.integers(smallest, largest + 1))
    room_x = max(0.0, (size[0] - text_width(text, font, pixels)) / 2 - 3)
    room_y = size[1] / 2 - 0.5 * pixels
    canvas = Canvas(rng, *size, dark)
    colour = _ink(rng, level, dark)
    x, y = size[0] / 2 + rng.uniform(-room_x, room_x), size[1] / 2 + rng.uniform(-room_y, room_y)
    canvas.text(text, font, pixels, x, y, colour)
    ask_direct = say.READ_NUMBER if what == "number" else say.READ_WORD
    skill = "read_number" if what == "number" else "read_word"
    in_caption = f"the {what} {text}"
    dialogues = [
        _dialogue(skill, _ask(rng, ask_direct), text),
        _dialogue(skill, _ask(rng, say.READ_TEXT), text),
        _dialogue("caption_text", _ask(rng, say.CAPTION), in_caption),
        _dialogue("presence", _ask(rng, say.PRESENT, thing=_pick(rng, ("number", "word"))), ""),
    ]
    asked = dialogues[-1].turns[0][0]
    dialogues[-1] = _dialogue("presence", asked, "yes" if what in asked else "no")
    return Scene("image", (canvas.finish(),), tuple(dialogues))


def small_text(rng: Rng, grid: Size, level: Difficulty) -> Scene:
    """A text inside one tile of a `grid` of tiles (columns, rows), too small for the thumbnail, among large shapes."""
    dark = bool(level.colourful and rng.random() < 0.25)
    columns, rows = grid
    canvas = Canvas(rng, columns * 112, rows * 112, dark)
    what, text = _some_text(rng, level)
    font = _pick(rng, FONT_NAMES[: level.fonts])
    pixels = int(rng.integers(24, 31))
    cells = [int(c) for c in rng.permutation(columns * rows)]
    home = cells[0]
    things = []
    colours = _colours(rng, dark)
    for k in range(int(rng.integers(0, min(3, len(cells))))):
        column, row = cells[k + 1] % columns, cells[k + 1] // columns
        thing = Thing(SHAPES[int(rng.integers(len(SHAPES)))], colours[k])
        things.append(thing)
        x, y = (column + 0.5) * 112 + rng.uniform(-15, 15), (row + 0.5) * 112 + rng.uniform(-15, 15)
        canvas.shape(thing.shape, thing.colour, x, y, rng.uniform(28, 40))
    room_x = max(0.0, (108 - text_width(text, font, pixels)) / 2)
    x = (home % columns + 0.5) * 112 + rng.uniform(-room_x, room_x)
    y = (home // columns + 0.5) * 112 + rng.uniform(-36, 36)
    canvas.text(text, font, pixels, x, y, _ink(rng, level, dark))
    direct = say.READ_NUMBER if what == "number" else say.READ_WORD
    dialogues = [
        _dialogue("small_text", _ask(rng, say.READ_SMALL), text),
        _dialogue("small_text", _ask(rng, direct), text),
    ]
    if len(things) == 1:
        dialogues += [_dialogue("small_scene", _ask(rng, say.COLOUR_ONE, shape=things[0].shape), things[0].colour)]
    if things:
        dialogues += [_presence(rng, things, colours)]
    return Scene("image", (canvas.finish(),), tuple(dialogues))


def _picture_size(rng: Rng, large: bool) -> Size:
    """One of several pictures: one tile, or four and a thumbnail."""
    if not large:
        return single_size(rng)
    side = int(rng.integers(180, 257))
    return side, side


def several_images(rng: Rng, count: int, large: bool) -> Scene:
    """Two or three pictures of one shape each: which one shows a thing, what the n-th one shows, same or not."""
    dark = bool(rng.random() < 0.2)
    colours = _colours(rng, dark)
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
    things = [Thing(shapes[i], colours[i]) for i in range(count)]
    kin = rng.random()
    if count == 2 and kin < 0.3:
        things[1] = Thing(shapes[0], colours[1])
    elif count == 2 and kin < 0.6:
        things[1] = Thing(shapes[1], colours[0])
    pictures = tuple(_draw_one(rng, _picture_size(rng, large), dark, t) for t in things)
    dialogues = [_dialogue("each_image", _ask(rng, say.EACH_IMAGE), say.listed([say.article(t.name) for t in things]))]
    for _ in range(2):
        i = int(rng.integers(count))
        named = [things[i].name]
        if sum(t.shape == things[i].shape for t in things) == 1:
            named.append(things[i].shape)
        answer = f"the {say.ORDINALS[i]} image"
        dialogues.append(_dialogue("which_image", _ask(rng, say.WHICH_IMAGE, thing=_pick(rng, named)), answer))
    i = int(rng.integers(count))
    nth, thing = say.ORDINALS[i], things[i]
    dialogues += [
        _dialogue("nth_image", _ask(rng, say.NTH_COLOUR, nth=nth), thing.colour),
        _dialogue("nth_image", _ask(rng, say.NTH_SHAPE, nth=nth), thing.shape),
        _dialogue("nth_image", _ask(rng, say.NTH_THING, nth=nth), say.article(thing.name)),
    ]
    if count == 2:
        for what, whats, same in (
            ("colour", "colours", things[0].colour == things[1].colour),
            ("shape", "shapes", things[0].shape == things[1].shape),
        ):
            question = _ask(rng, say.SAME, what=what, whats=whats)
            dialogues.append(_dialogue("compare", question, "yes" if same else "no"))
    return Scene("images", pictures, tuple(dialogues))


def compare_counts(rng: Rng, large: bool) -> Scene:
    """Two pictures of equal shapes in different number."""
    dark = bool(rng.random() < 0.2)
    shape = _pick(rng, SHAPES)
    more, fewer = sorted((int(n) for n in rng.permutation(6)[:2] + 1), reverse=True)
    first_has_more = bool(rng.random() < 0.5)
    counts = (more, fewer) if first_has_more else (fewer, more)
    pictures = []
    for n in counts:
        colours = _colours(rng, dark)[:2]
        things = [Thing(shape, _pick(rng, colours), int(p)) for p in rng.permutation(9)[:n]]
        pictures.append(_draw_things(rng, _picture_size(rng, large), dark, things))
    shapes = say.plural(shape)
    names = [f"the {say.ORDINALS[i]} image" for i in (0, 1)]
    best = names[0] if first_has_more else names[1]
    least = names[1] if first_has_more else names[0]
    i = int(rng.integers(2))
    dialogues = [
        _dialogue("compare", _ask(rng, say.MORE, shapes=_pick(rng, (shapes, "shapes"))), best),
        _dialogue("compare", _ask(rng, say.FEWER, shapes=_pick(rng, (shapes, "shapes"))), least),
        _dialogue("nth_count", f"How many {shapes} are in the {say.ORDINALS[i]} image?", say.NUMBERS[counts[i]]),
    ]
    return Scene("images", tuple(pictures), tuple(dialogues))


def slides(rng: Rng, frames: int) -> Scene:
    """A video that shows one shape after another."""
    dark = bool(rng.random() < 0.2)
    colours = _colours(rng, dark)
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))][:frames]
    things = [Thing(s, c) for s, c in zip(shapes, colours, strict=False)]
    pictures = tuple(_draw_one(rng, (112, 112), dark, t) for t in things)
    one, two, three = (int(i) for i in rng.integers(0, len(things), 3))
    absent = [s for s in SHAPES if s not in shapes]
    dialogues = [
        _dialogue("which_frame", _ask(rng, say.WHICH_FRAME, shape=things[one].shape), f"frame {one + 1}"),
        _dialogue("which_frame", _ask(rng, say.WHICH_FRAME, shape=things[two].shape), f"frame {two + 1}"),
        _dialogue("in_frame", _ask(rng, say.IN_FRAME, n=str(three + 1)), say.article(things[three].name)),
    ]
    if absent and rng.random() < 0.5:
        dialogues.append(_dialogue("in_video", _ask(rng, say.IN_VIDEO, shape=_pick(rng, absent)), "no"))
    elif absent:
        dialogues.append(_dialogue("in_video", _ask(rng, say.IN_VIDEO, shape=things[two].shape), "yes"))
    if frames <= 4:
        each = say.listed([say.article(t.name) for t in things])
        dialogues.append(_dialogue("each_frame", _ask(rng, say.EACH_FRAME), each))
    return Scene("video", pictures, tuple(dialogues))


def motion(rng: Rng, frames: int) -> Scene:
    """A video in which one shape moves straight left, right, up or down."""
    dark = bool(rng.random() < 0.2)
    colours = _colours(rng, dark)
    thing = Thing(_pick(rng, SHAPES), colours[0])
    direction = _pick(rng, tuple(say.DIRECTIONS))
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
        _dialogue("motion", _ask(rng, say.MOVES, shape=thing.shape), direction),
        _dialogue("motion", _ask(rng, say.MOVES, shape=thing.shape), direction),
        _dialogue("what_moves", _ask(rng, say.WHAT_MOVES), say.article(thing.name)),
        Dialogue(
            "second_turn",
            ((_ask(rng, say.WHAT_MOVES), say.article(thing.name)), (_ask(rng, say.MOVES, shape=thing.shape), direction)),
        ),
    ]
    return Scene("video", tuple(pictures), tuple(dialogues))


def small_talk(rng: Rng) -> Scene:
    """Turns without any picture."""
    replies = (
        (say.GREETINGS, say.GREETING_REPLY),
        (say.WHO, say.WHO_REPLY),
        (say.ABILITIES, say.ABILITIES_REPLY),
        (say.THANKS, say.THANKS_REPLY),
        ((say.COLOUR_ONE + say.SHAPE_ONLY + say.CAPTION + say.READ_TEXT + say.COUNT_ALL), say.NO_IMAGE_REPLY),
    )
    dialogues = []
    for options, reply in replies:
        question = _ask(rng, options, shape=_pick(rng, SHAPES))
        dialogues.append(_dialogue("small_talk", question, reply))
    return Scene("text", (), tuple(dialogues))


def label_sheet(rng: Rng, level: Difficulty) -> Scene:
    """A picture crammed with shapes or lines of characters, for the dense labels alone."""
    dark = bool(level.colourful and rng.random() < 0.25)
    canvas = Canvas(rng, 112, 112, dark)
    if rng.random() < 0.4:
        colours = _colours(rng, dark)
        for place in rng.permutation(9)[: int(rng.integers(4, 10))]:
            _put(canvas, rng, Thing(_pick(rng, SHAPES), _pick(rng, colours), int(place)))
        return Scene("image", (canvas.finish(),), ())
    y = rng.uniform(0, 8)
    while True:
        font = _pick(rng, FONT_NAMES[: level.fonts])
        size = int(rng.integers(level.min_size, level.max_size + 1))
        y += size * 0.5
        if y + size * 0.4 > 112:
            return Scene("image", (canvas.finish(),), ())
        kind = (0, 10) if rng.random() < 0.3 else (10, len(CHARACTERS))
        letters = rng.integers(*kind, int(rng.integers(1, level.max_letters + 1)))
        text = "".join(CHARACTERS[i] for i in letters)
        while text_width(text, font, size) > 108:
            text = text[:-1]
        room = (108 - text_width(text, font, size)) / 2
        canvas.text(text, font, size, 56 + rng.uniform(-room, room), y, _ink(rng, level, dark))
        y += size * rng.uniform(0.45, 0.7)


GRIDS: tuple[Size, ...] = ((2, 2), (2, 2), (3, 2), (2, 3), (3, 1), (1, 3))
WIDE_SIZES: tuple[Size, ...] = ((224, 112), (112, 224), (224, 224), (200, 200), (336, 224), (224, 336), (320, 240), (448, 336))
TASKS = ("one", "several", "crowd", "written", "wide", "small_text", "images", "counts", "slides", "motion", "talk")


ROWS = {"one": 24, "several": 20, "crowd": 24, "written": 28, "talk": 24, "sheet": 26}
TILE_BUDGET = 44


def batch_of_scenes(rng: Rng, task: str, level: Difficulty, scale: float = 1.0) -> list[Scene]:
    """Scenes of one task with equally many visual tokens each, about `scale` times the usual work of one step."""
    grid, wide = _pick(rng, GRIDS), _pick(rng, WIDE_SIZES)
    count = int(rng.integers(2, 4))
    frames = int(rng.choice([4, 6, 8], p=[0.6, 0.15, 0.25]))
    large = bool(rng.random() < 0.15)
    columns, rows = choose_grid(*wide)
    tiles = {
        "wide": columns * rows + 1,
        "small_text": grid[0] * grid[1] + 1,
        "slides": frames,
        "motion": frames,
        "images": 5 * count if large else 3,
        "counts": 10 if large else 3,
    }
    makers: dict[str, Callable[[], Scene]] = {
        "one": lambda: one_shape(rng, single_size(rng)),
        "several": lambda: several_shapes(rng, single_size(rng)),
        "crowd": lambda: crowd(rng, single_size(rng)),
        "written": lambda: written(rng, single_size(rng), level),
        "wide": lambda: _wide(rng, wide, level),
        "small_text": lambda: small_text(rng, grid, level),
        "images": lambda: several_images(rng, count, large),
        "counts": lambda: compare_counts(rng, large),
        "slides": lambda: slides(rng, frames),
        "motion": lambda: motion(rng, frames),
        "talk": lambda: small_talk(rng),
        "sheet": lambda: label_sheet(rng, level),
    }
    size = ROWS[task] if task in ROWS else TILE_BUDGET // tiles[task]
    return [makers[task]() for _ in range(max(1, round(size * scale)))]


def _wide(rng: Rng, size: Size, level: Difficulty) -> Scene:
    """A picture of several tiles whose content is large enough for the thumbnail."""
    kind = rng.random()
    if kind < 0.2:
        return one_shape(rng, size)
    if kind < 0.6:
        return several_shapes(rng, size)
    if kind < 0.8:
        return crowd(rng, size)
    return written(rng, size, level)
