"""Pictures that the embedded model can talk about, and questions about them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

from models.recipe.scene_parts import Scene, Size
from models.recipe.seeds import HELD_OUT, stream
from models.recipe.shape_scenes import several_shapes

SIZE = (336, 224)
"""Pixels. The embedded model cuts it into 3 x 2 tiles and adds a thumbnail: 7 tiles, its most."""

LARGE = (448, 336)
"""Pixels. With 12 tiles allowed, as the released models do, 4 x 3 and a thumbnail: 13 tiles."""

_STREAM = 5000


@dataclass(frozen=True, slots=True)
class Drawing:
    """Two or three shapes.

    Attributes:
        png: the file.
        caption: the question that asks for all of it.
        questions: other questions, each about something else.
    """

    png: bytes
    caption: str
    questions: tuple[str, ...]


def drawings(number: int, first: int = 0, size: Size = SIZE) -> list[Drawing]:
    """So many drawings, from the `first` one on: the same ones everywhere, never seen in training."""
    return list(islice(_all(size), first, first + number))


def _all(size: Size) -> Iterator[Drawing]:
    for key in count():
        scene = several_shapes(stream(HELD_OUT, _STREAM, key), size)
        captions = [dialogue.turns[0] for dialogue in scene.dialogues if dialogue.skill == "caption"]
        if captions and " and " in captions[0][1]:  # of one shape there is little to say
            yield Drawing(_png(scene), captions[0][0], _questions(scene))


def _questions(scene: Scene) -> tuple[str, ...]:
    asked = (dialogue.turns[0][0] for dialogue in scene.dialogues if dialogue.skill != "caption")
    return tuple(dict.fromkeys(asked))


def _png(scene: Scene) -> bytes:
    file = io.BytesIO()
    scene.pictures[0].image.save(file, "PNG")
    return file.getvalue()
