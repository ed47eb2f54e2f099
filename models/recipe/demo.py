"""Draw the demonstration files of nano: `python -m models.recipe.demo`. With `--check` ask the model about
them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.recipe.drawing import Canvas
from models.recipe.heldout import Case, Media
from models.recipe.seeds import DEMO, stream
from models.recipe.video import encode_video

Mark = tuple[str, str, float, float, float]
NANO = Path(__file__).resolve().parents[1] / "nano"
FRAMES = 8


@dataclass(frozen=True, slots=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Demo:
    """Files to send in the first user turn, and the conversation. `frames` is how many to sample of a
    video.
    """

    name: str
    files: tuple[str, ...]
    turns: tuple[Turn, ...]
    frames: int = 0


DEMOS = (
    Demo(
        "shapes",
        ("shapes.png",),
        (
            Turn("Describe the image.", "a red circle, a blue square and a green star"),
            Turn("Where is the star?", "bottom right"),
        ),
    ),
    Demo(
        "stars",
        ("stars.png",),
        (
            Turn("How many stars are there?", "four"),
            Turn("And how many hearts?", "two"),
        ),
    ),
    Demo(
        "label",
        ("label.png",),
        (Turn("What does the small text say?", "TEA"),),
    ),
    Demo(
        "compare",
        ("few_circles.png", "many_circles.png"),
        (Turn("Which image has more circles?", "the second image"),),
    ),
    Demo(
        "video",
        ("ball.mp4",),
        (
            Turn("What moves?", "an orange circle"),
            Turn("Which way does the circle move?", "right"),
        ),
        frames=FRAMES,
    ),
)


def _draw(key: int, size: tuple[int, int], shapes: Sequence[Mark]) -> Canvas:
    canvas = Canvas(stream(DEMO, key), *size, dark=False)
    for shape, colour, x, y, radius in shapes:
        canvas.shape(shape, colour, x, y, radius)
    return canvas


def _ball(step: float) -> Image.Image:
    return _draw(6, (224, 224), [("circle", "orange", 40 + 144 * step, 120, 28)]).finish().image


def draw_demo(folder: Path) -> None:
    """Write the pictures, the video and `demo.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = [("circle", "red", 75, 58, 40), ("square", "blue", 372, 60, 42), ("star", "green", 370, 278, 42)]
    stars = [
        ("star", "purple", 56, 58, 40), ("heart", "red", 168, 54, 38), ("star", "blue", 280, 60, 42),
        ("star", "purple", 170, 168, 38), ("heart", "blue", 58, 282, 40), ("star", "red", 282, 278, 40),
    ]  # fmt: skip
    few = [("circle", "green", 112, 110, 30), ("circle", "purple", 38, 186, 26)]
    many = [
        ("circle", "green", 38, 40, 28), ("circle", "purple", 188, 36, 26), ("circle", "green", 110, 112, 28),
        ("circle", "green", 40, 186, 26), ("circle", "purple", 186, 188, 28),
    ]  # fmt: skip
    label = _draw(3, (336, 224), [("heart", "red", 58, 56, 36), ("diamond", "blue", 276, 170, 38)])
    label.text("TEA", "SourceSans", 28, 170, 60, "black")
    pictures = {
        "shapes.png": _draw(1, (448, 336), shapes),
        "stars.png": _draw(2, (336, 336), stars),
        "label.png": label,
        "few_circles.png": _draw(4, (224, 224), few),
        "many_circles.png": _draw(5, (224, 224), many),
    }
    for name, canvas in pictures.items():
        canvas.finish().image.save(folder / name, optimize=True)
    steps = np.linspace(0, 1, 4 * FRAMES)
    (folder / "ball.mp4").write_bytes(encode_video([_ball(float(step)) for step in steps], repeats=1))
    content = [asdict(demo) for demo in DEMOS]
    (folder / "demo.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def demo_cases(folder: Path) -> list[Case]:
    """One case per answer, from the files on disk."""
    cases = []
    for demo in DEMOS:
        contents = [(folder / name).read_bytes() for name in demo.files]
        media = tuple(Media("video" if demo.frames else "image", data, demo.frames) for data in contents)
        turns = tuple((turn.question, turn.answer) for turn in demo.turns)
        cases += [Case(demo.name, i, media, turns[: i + 1]) for i in range(len(turns))]
    return cases


def main() -> None:
    """Draw the files, or check the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=NANO, help="checkpoint folder (default models/nano)")
    parser.add_argument("--check", action="store_true", help="ask the model instead of drawing")
    args = parser.parse_args()
    folder = args.model / "demo"
    if not args.check:
        draw_demo(folder)
        return
    from models.recipe.evaluate import Evaluator

    evaluator = Evaluator(args.model)
    cases = demo_cases(folder)
    for case, right in zip(cases, evaluator.exact(cases), strict=True):
        print("right" if right else "WRONG", case.skill, *case.turns[-1])


if __name__ == "__main__":
    main()
