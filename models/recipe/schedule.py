"""What is trained when: phases of a fixed number of steps, each with its task mix, learning rate and difficulty."""

from dataclasses import dataclass

from models.recipe.scenes import EASY, FULL, Difficulty


@dataclass(frozen=True, slots=True)
class Phase:
    """`mix` is relative; the learning rate goes from `start_rate` to `end_rate` along a cosine after `warm_up` steps.

    With `labels_only` just the vision side is trained, on the dense labels; otherwise everything, with the dense
    labels weighing `label_weight`.
    """

    name: str
    steps: int
    mix: dict[str, float]
    start_rate: float
    end_rate: float
    warm_up: int = 0
    labels_only: bool = False
    label_weight: float = 0.3
    level: Difficulty = FULL


LABELS = {"sheet": 5.0, "several": 1.0, "written": 1.0, "small_text": 0.6}
EVERYTHING = {
    "one": 0.7, "several": 1.6, "crowd": 1.2, "written": 2.6, "wide": 0.8, "small_text": 1.0,
    "images": 1.4, "counts": 0.6, "slides": 0.9, "motion": 0.7, "talk": 0.1, "sheet": 0.8,
}  # fmt: skip

PHASES = (
    Phase("easy labels", 800, LABELS, 1.4e-3, 1.4e-3, warm_up=100, labels_only=True, level=EASY),
    Phase("labels", 600, LABELS, 1.4e-3, 8e-4, labels_only=True),
    Phase("everything", 5000, EVERYTHING, 1.0e-3, 1.0e-4, warm_up=100),
    Phase("finish", 600, EVERYTHING, 1.0e-4, 1.0e-5, label_weight=0.1),
)
