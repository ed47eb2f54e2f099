"""Pictures of coloured shapes and short texts, with a dense map of what was drawn where."""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.recipe.fonts import load_font

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (35, 150, 55),
    "blue": (35, 80, 215),
    "yellow": (240, 205, 30),
    "orange": (245, 125, 20),
    "purple": (135, 45, 175),
    "pink": (245, 135, 190),
    "black": (22, 22, 22),
    "white": (246, 246, 246),
}
COLOUR_NAMES = tuple(COLOURS)
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DARK_INKS = ("black", "blue", "red", "purple", "green")
LIGHT_INKS = ("white", "yellow", "pink", "orange")
SUPERSAMPLING = 2
MAX_ORDINAL = 5

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Mark:
    """One drawn thing as label numbers; 0 means "none" in every field.

    `ordinal` is the place of a character in its text, or of a shape among those of its form; `height` is in
    canvas pixels.
    """

    shape: int = 0
    colour: int = 0
    character: int = 0
    ordinal: int = 0
    height: float = 0.0


@dataclass(frozen=True, slots=True)
class Picture:
    """An RGB image and, per pixel, the index into `marks` of what covers it (0 is the background)."""

    image: Image.Image
    index: NDArray[np.uint8]
    marks: tuple[Mark, ...]


def is_visible(colour: str, dark: bool) -> bool:
    """Whether `colour` stands out from a dark or a light background."""
    return colour != ("black" if dark else "white")


def _outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "triangle":
        return [(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)]
    if shape == "diamond":
        return [(x, y - 1.1 * r), (x + 0.8 * r, y), (x, y + 1.1 * r), (x - 0.8 * r, y)]
    if shape == "star":
        radii = (1.1 * r, 0.45 * r)
        return [
            (x + radii[i % 2] * math.sin(i * math.pi / 5), y - radii[i % 2] * math.cos(i * math.pi / 5))
            for i in range(10)
        ]
    if shape == "heart":
        steps = [2 * math.pi * i / 28 for i in range(28)]
        return [
            (
                x + r * math.sin(t) ** 3,
                y - r * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
            )
            for t in steps
        ]
    a, b = 0.35 * r, r
    corners = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]
    return [(x + dx, y + dy) for dx, dy in corners]


def _paint(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, ink: object) -> None:
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)  # type: ignore[arg-type]
    elif shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=max(2, round(0.36 * r)))  # type: ignore[arg-type]
    elif shape == "square":
        side = 0.85 * r
        draw.rectangle((x - side, y - side, x + side, y + side), fill=ink)  # type: ignore[arg-type]
    else:
        draw.polygon(_outline(shape, x, y, r), fill=ink)  # type: ignore[arg-type]


class Canvas:
    """A background that shapes and texts are drawn on; coordinates are pixels of the finished picture."""

    def __init__(self, rng: Rng, width: int, height: int, dark: bool) -> None:
        self.width, self.height, self.dark = width, height, dark
        self._rng = rng
        base = rng.integers(12, 50) if dark else rng.integers(228, 256)
        ground = tuple(int(np.clip(base + rng.integers(-10, 11), 0, 255)) for _ in range(3))
        size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self._image = Image.new("RGB", size, ground)
        self._draw = ImageDraw.Draw(self._image)
        self._index = Image.new("L", (width, height), 0)
        self._index_draw = ImageDraw.Draw(self._index)
        self._marks = [Mark()]

    def _ink(self, colour: str) -> tuple[int, int, int]:
        red, green, blue = (int(np.clip(c + self._rng.integers(-12, 13), 0, 255)) for c in COLOURS[colour])
        return red, green, blue

    def shape(self, shape: str, colour: str, x: float, y: float, radius: float) -> None:
        """Draw a filled shape centred at (x, y). Its ordinal counts those of its form so far."""
        number = SHAPES.index(shape) + 1
        ordinal = min(MAX_ORDINAL, 1 + sum(mark.shape == number for mark in self._marks))
        self._marks.append(Mark(number, COLOUR_NAMES.index(colour) + 1, ordinal=ordinal, height=2 * radius))
        scale = SUPERSAMPLING
        _paint(self._draw, shape, x * scale, y * scale, radius * scale, self._ink(colour))
        _paint(self._index_draw, shape, x, y, radius, len(self._marks) - 1)

    def text(self, text: str, font: str, size: int, x: float, y: float, colour: str) -> None:
        """Draw `text` with its ink box centred at (x, y)."""
        face = load_font(font, size * SUPERSAMPLING)
        left, top, right, bottom = (v / SUPERSAMPLING for v in face.getbbox(text))
        origin_x, origin_y = x - (left + right) / 2, y - (top + bottom) / 2
        self._draw.text(
            (origin_x * SUPERSAMPLING, origin_y * SUPERSAMPLING), text, font=face, fill=self._ink(colour)
        )
        for i, character in enumerate(text):
            start = origin_x + face.getlength(text[:i]) / SUPERSAMPLING
            end = origin_x + face.getlength(text[: i + 1]) / SUPERSAMPLING
            self._marks.append(
                Mark(
                    colour=COLOUR_NAMES.index(colour) + 1,
                    character=CHARACTERS.index(character) + 1,
                    ordinal=i + 1,
                    height=bottom - top,
                )
            )
            box = (round(start), round(origin_y + top), round(end) - 1, round(origin_y + bottom))
            self._index_draw.rectangle(box, fill=len(self._marks) - 1)

    def finish(self) -> Picture:
        """The picture; now and then it went through JPEG, as photos and video frames do."""
        image = self._image.reduce(SUPERSAMPLING)
        if self._rng.random() < 0.3:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=int(self._rng.integers(70, 96)))
            image = Image.open(buffer).convert("RGB")
        return Picture(image, np.asarray(self._index), tuple(self._marks))


def text_width(text: str, font: str, size: int) -> float:
    """Width of the ink of `text` in pixels."""
    left, _, right, _ = load_font(font, size).getbbox(text)
    return float(right - left)
