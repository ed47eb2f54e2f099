"""The tasks that training mixes: batches of scenes of about equal cost."""

from collections.abc import Callable

from models.recipe import phrases as say
from models.recipe.drawing import SHAPES, Rng
from models.recipe.geometry import choose_grid
from models.recipe.scene_parts import Difficulty, Scene, Size, ask, pick, single_size, single_turn
from models.recipe.sequence_scenes import compare_counts, motion, several_images, slides
from models.recipe.shape_scenes import crowd, one_shape, several_shapes
from models.recipe.text_scenes import label_sheet, small_text, written

GRIDS: tuple[Size, ...] = ((2, 2), (2, 2), (3, 2), (2, 3), (3, 1), (1, 3))


WIDE_SIZES: tuple[Size, ...] = (
    (224, 112),
    (112, 224),
    (224, 224),
    (200, 200),
    (336, 224),
    (224, 336),
    (320, 240),
    (448, 336),
)


TASKS = (
    "one",
    "several",
    "crowd",
    "written",
    "wide",
    "small_text",
    "images",
    "counts",
    "slides",
    "motion",
    "talk",
)


ROWS = {"one": 24, "several": 20, "crowd": 24, "written": 28, "talk": 24, "sheet": 60}


TILE_BUDGET = 44


def batch_of_scenes(rng: Rng, task: str, level: Difficulty, scale: float = 1.0) -> list[Scene]:
    """Scenes of one task with equally many visual tokens each, about `scale` times the usual work of one
    step."""
    grid, wide = pick(rng, GRIDS), pick(rng, WIDE_SIZES)
    count = int(rng.integers(2, 4))
    frames = int(rng.choice([4, 6, 8], p=[0.8, 0.1, 0.1]))
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
        question = ask(rng, options, shape=pick(rng, SHAPES))
        dialogues.append(single_turn("small_talk", question, reply))
    return Scene("text", (), tuple(dialogues))
