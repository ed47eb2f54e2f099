"""Parts that every scene is made of: things, questions, canvases."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from models.recipe.drawing import COLOUR_NAMES, Canvas, Picture, Rng, is_visible

T = TypeVar("T")


Size = tuple[int, int]


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

    fonts: int = 4
    min_size: int = 28
    max_size: int = 40
    random_letters: float = 0.15
    max_digits: int = 3
    max_letters: int = 4
    colourful: bool = True


EASY = Difficulty(
    fonts=2, min_size=28, max_size=38, max_digits=2, max_letters=3, random_letters=0.7, colourful=False
)


FULL = Difficulty()


def pick(rng: Rng, options: tuple[T, ...] | list[T]) -> T:
    return options[int(rng.integers(len(options)))]


def ask(rng: Rng, options: tuple[str, ...], **slots: str) -> str:
    question = pick(rng, options).format(**slots)
    if rng.random() < 0.4:
        question = question.replace("colour", "color")
    if question.endswith("?") and rng.random() < 0.06:
        question = question[:-1]
    return question


def single_turn(skill: str, question: str, answer: str) -> Dialogue:
    return Dialogue(skill, ((question, answer),))


def single_size(rng: Rng) -> Size:
    """Canvas sizes that the tiling rule keeps as one tile."""
    if rng.random() < 0.75:
        return 112, 112
    side = int(rng.integers(100, 149))
    return side, int(np.clip(side + rng.integers(-8, 9), 96, 150))


def shuffled_colours(rng: Rng, dark: bool) -> list[str]:
    names = [c for c in COLOUR_NAMES if is_visible(c, dark)]
    return [names[i] for i in rng.permutation(len(names))]


def put(canvas: Canvas, rng: Rng, thing: Thing) -> None:
    cell_w, cell_h = canvas.width / 3, canvas.height / 3
    cell = min(cell_w, cell_h)
    radius = cell * rng.uniform(0.28, 0.42)
    x = (thing.place % 3 + 0.5) * cell_w + rng.uniform(-0.08, 0.08) * cell_w
    y = (thing.place // 3 + 0.5) * cell_h + rng.uniform(-0.08, 0.08) * cell_h
    canvas.shape(thing.shape, thing.colour, x, y, radius)


def draw_things(rng: Rng, size: Size, dark: bool, things: list[Thing]) -> Picture:
    canvas = Canvas(rng, *size, dark)
    for thing in things:
        put(canvas, rng, thing)
    return canvas.finish()


def draw_one(rng: Rng, size: Size, dark: bool, thing: Thing) -> Picture:
    """One shape alone, larger and freely placed."""
    canvas = Canvas(rng, *size, dark)
    unit = min(size)
    radius = unit * rng.uniform(0.13, 0.3)
    x = rng.uniform(radius * 1.15, size[0] - radius * 1.15)
    y = rng.uniform(radius * 1.15, size[1] - radius * 1.15)
    canvas.shape(thing.shape, thing.colour, x, y, radius)
    return canvas.finish()
