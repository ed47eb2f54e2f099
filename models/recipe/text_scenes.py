"""Scenes of one picture with a number or a word, and sheets of characters for the dense labels."""

from models.recipe import phrases as say
from models.recipe.drawing import CHARACTERS, DARK_INKS, LIGHT_INKS, SHAPES, Canvas, Rng, text_width
from models.recipe.fonts import FONT_NAMES
from models.recipe.scene_parts import (
    Difficulty,
    Scene,
    Size,
    Thing,
    ask,
    pick,
    put,
    shuffled_colours,
    single_turn,
)
from models.recipe.shape_scenes import presence


def written(rng: Rng, size: Size, level: Difficulty) -> Scene:
    """One number or one word, large enough to read in the first view."""
    dark = bool(level.colourful and rng.random() < 0.25)
    what, text = _some_text(rng, level)
    font = pick(rng, FONT_NAMES[: level.fonts])
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
        single_turn(skill, ask(rng, ask_direct), text),
        single_turn(skill, ask(rng, say.READ_TEXT), text),
        single_turn("caption_text", ask(rng, say.CAPTION), in_caption),
        single_turn("presence", ask(rng, say.PRESENT, thing=pick(rng, ("number", "word"))), ""),
    ]
    asked = dialogues[-1].turns[0][0]
    dialogues[-1] = single_turn("presence", asked, "yes" if what in asked else "no")
    return Scene("image", (canvas.finish(),), tuple(dialogues))


def small_text(rng: Rng, grid: Size, level: Difficulty) -> Scene:
    """A text inside one tile of a `grid` of tiles (columns, rows), too small for the thumbnail, among large
    shapes."""
    dark = bool(level.colourful and rng.random() < 0.25)
    columns, rows = grid
    canvas = Canvas(rng, columns * 112, rows * 112, dark)
    what, text = _some_text(rng, level)
    font = pick(rng, FONT_NAMES[: level.fonts])
    pixels = int(rng.integers(28, 33))
    cells = [int(c) for c in rng.permutation(columns * rows)]
    home, others = cells[0], sorted(cells[1:3])
    things = []
    colours = shuffled_colours(rng, dark)
    for k in range(int(rng.integers(0, len(others) + 1))):
        column, row = others[k] % columns, others[k] // columns
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
        single_turn("small_text", ask(rng, say.READ_SMALL), text),
        single_turn("small_text", ask(rng, direct), text),
    ]
    if len(things) == 1:
        dialogues += [
            single_turn("small_scene", ask(rng, say.COLOUR_ONE, shape=things[0].shape), things[0].colour)
        ]
    if things:
        dialogues += [presence(rng, things, colours)]
    return Scene("image", (canvas.finish(),), tuple(dialogues))


def label_sheet(rng: Rng, level: Difficulty) -> Scene:
    """A picture crammed with shapes or lines of characters, for the dense labels alone."""
    dark = bool(level.colourful and rng.random() < 0.25)
    canvas = Canvas(rng, 112, 112, dark)
    if rng.random() < 0.4:
        colours = shuffled_colours(rng, dark)
        for place in sorted(rng.permutation(9)[: int(rng.integers(4, 10))]):
            put(canvas, rng, Thing(pick(rng, SHAPES), pick(rng, colours), int(place)))
        return Scene("image", (canvas.finish(),), ())
    y = rng.uniform(0, 8)
    while True:
        font = pick(rng, FONT_NAMES[: level.fonts])
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


def _some_text(rng: Rng, level: Difficulty) -> tuple[str, str]:
    """("number" or "word", the text itself)."""
    if rng.random() < 0.4:
        digits = int(rng.integers(1, level.max_digits + 1))
        return "number", "".join(CHARACTERS[i] for i in rng.integers(0, 10, digits))
    if rng.random() < level.random_letters:
        letters = int(rng.integers(2 if level.max_letters > 3 else 1, level.max_letters + 1))
        return "word", "".join(CHARACTERS[i] for i in rng.integers(10, 36, letters))
    return "word", pick(rng, [w for w in say.WORDS if len(w) <= level.max_letters])


def _ink(rng: Rng, level: Difficulty, dark: bool) -> str:
    if not level.colourful:
        return "white" if dark else "black"
    return pick(rng, LIGHT_INKS if dark else DARK_INKS)
