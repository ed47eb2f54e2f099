"""Held-out cases: media files, a conversation and the one right answer. Needs no Paddle.

The drawings come from random streams that training never uses (`seeds.HELD_OUT`); case `number` of a skill
is the same on every machine with the pinned fonts and Pillow.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from models.recipe.scene_parts import FULL, Dialogue, Scene
from models.recipe.seeds import HELD_OUT, stream
from models.recipe.tasks import batch_of_scenes
from models.recipe.video import encode_video

# Skill as reported: the tasks that draw it and the dialogues that count as it.
SKILLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "colour": (("one",), ("colour",)),
    "shape": (("one",), ("shape",)),
    "count": (("crowd", "several"), ("count",)),
    "position": (("several",), ("position",)),
    "attribute": (("several",), ("attribute",)),
    "presence": (("one", "several", "crowd", "written"), ("presence",)),
    "caption": (("one", "several", "written"), ("caption", "caption_text")),
    "read_number": (("written",), ("read_number",)),
    "read_word": (("written",), ("read_word",)),
    "small_text": (("small_text",), ("small_text",)),
    "large_image": (
        ("wide",),
        (
            "colour",
            "shape",
            "count",
            "position",
            "attribute",
            "presence",
            "caption",
            "read_number",
            "read_word",
        ),
    ),
    "which_image": (("images",), ("which_image", "nth_image", "each_image")),
    "compare_images": (("images", "counts"), ("compare",)),
    "video_frame": (("slides",), ("which_frame", "in_frame", "in_video", "each_frame")),
    "video_motion": (("motion",), ("motion", "what_moves")),
    "second_turn": (("one", "several", "crowd", "motion"), ("second_turn",)),
    "small_talk": (("talk",), ("small_talk",)),
}


@dataclass(frozen=True, slots=True)
class Media:
    """A file to send: PNG bytes, or an mp4 of which `frames` frames are to be sampled."""

    kind: Literal["image", "video"]
    data: bytes
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out conversation. The last answer is scored; earlier ones are history, to be sent as they
    stand here.

    All media belong to the first user turn, before its text, in this order. A single image is sent without
    a label, several as "Image-1: ", "Image-2: ", a video as "Frame1: ", "Frame2: ".
    """

    skill: str
    number: int
    media: tuple[Media, ...]
    turns: tuple[tuple[str, str], ...]

    @property
    def expected(self) -> str:
        return self.turns[-1][1]


def draw_case(skill: str, number: int) -> tuple[Scene, Dialogue]:
    """The scene and the dialogue behind a case."""
    tasks, wanted = SKILLS[skill]
    rng = stream(HELD_OUT, 1000 + list(SKILLS).index(skill), number)
    while True:
        scene = batch_of_scenes(rng, tasks[int(rng.integers(len(tasks)))], FULL, scale=0)[0]
        fitting = [d for d in scene.dialogues if d.skill in wanted]
        if fitting:
            return scene, fitting[int(rng.integers(len(fitting)))]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_case(skill: str, number: int) -> Case:
    """Case `number` (from 0) of a skill; raises KeyError for an unknown skill."""
    scene, dialogue = draw_case(skill, number)
    return Case(skill, number, _media(scene), dialogue.turns)


def _media(scene: Scene) -> tuple[Media, ...]:
    images = [picture.image for picture in scene.pictures]
    if scene.kind == "video":
        return (Media("video", encode_video(images), len(images)),)
    return tuple(Media("image", _png(image)) for image in images)


def heldout_cases(per_skill: int, skills: tuple[str, ...] = tuple(SKILLS)) -> Iterator[Case]:
    """`per_skill` cases of each skill, skill by skill."""
    for skill in skills:
        for number in range(per_skill):
            yield make_case(skill, number)
