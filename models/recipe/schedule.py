"""What is trained when: phases of a fixed number of steps, each with its task mix, learning rate and
difficulty."""

import math
from dataclasses import dataclass

from models.recipe.scene_parts import EASY, FULL, Difficulty


@dataclass(frozen=True, slots=True)
class Phase:
    """`mix` is relative; the learning rate goes from `start_rate` to `end_rate` along a cosine after
    `warm_up` steps.

    With `labels_only` just the vision side is trained, on the dense labels; otherwise everything, with the
    dense labels weighing `label_weight`.
    """

    name: str
    steps: int
    mix: dict[str, float]
    start_rate: float
    end_rate: float
    warm_up: int = 0
    scale: float = 1.0
    labels_only: bool = False
    label_weight: float = 0.3
    level: Difficulty = FULL


LABELS = {"sheet": 5.0, "several": 1.0, "written": 1.0, "small_text": 0.6}
EVERYTHING = {
    "one": 0.1, "several": 1.5, "crowd": 2.0, "written": 1.8, "wide": 0.8, "small_text": 1.2,
    "images": 2.4, "counts": 0.8, "slides": 3.0, "motion": 0.2, "talk": 0.1, "sheet": 1.4,
}  # fmt: skip

HARD = {
    "one": 0.1, "several": 0.8, "crowd": 2.0, "written": 3.2, "wide": 1.7, "small_text": 2.2,
    "images": 0.9, "counts": 1.4, "slides": 1.6, "motion": 0.1, "talk": 0.1, "sheet": 1.4,
}  # fmt: skip

PHASES = (
    Phase("easy labels", 800, LABELS, 1.4e-3, 1.4e-3, warm_up=100, labels_only=True, level=EASY),
    Phase("labels", 500, LABELS, 1.4e-3, 8e-4, labels_only=True),
    Phase("first answers", 1400, EVERYTHING, 1.0e-3, 8.5e-4, warm_up=100),
    Phase("everything", 6100, EVERYTHING, 7.0e-4, 6.0e-5, scale=0.5, label_weight=1.0),
    Phase("hard ones", 1900, HARD, 2.4e-4, 4.0e-5, warm_up=30, scale=0.5, label_weight=0.5),
    Phase("finish", 250, EVERYTHING, 4.0e-5, 1.0e-5, scale=0.5, label_weight=0.3),
)


def total_steps() -> int:
    """Steps of all phases."""
    return sum(phase.steps for phase in PHASES)


def locate(step: int) -> tuple[Phase, int]:
    """The phase of a step, and the step counted within that phase; raises IndexError past the end."""
    for phase in PHASES:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError("the schedule has no such step")


def rate_at(phase: Phase, step: int) -> float:
    """Learning rate at `step` of `phase`: linear warm-up, and a cosine from start to end."""
    rate = (
        phase.end_rate
        + (phase.start_rate - phase.end_rate) * (1 + math.cos(math.pi * step / phase.steps)) / 2
    )
    return rate * min(1.0, (step + 1) / phase.warm_up) if phase.warm_up else rate
