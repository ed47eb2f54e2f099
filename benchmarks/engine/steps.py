"""What a step of decoding costs at several batch sizes, and how much of it is not the model."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY

from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig, StepTime
from benchmarks.report import Row

_BATCHES = (1, 8, 32)
_JUDGED = 8
_STEPS = 200
_LONGEST = 2000  # tokens of the answers, more than they ever get to
_GOAL_SHARE, _GOAL_MS = 0.10, 1.0
_PHASES = ("schedule", "sample", "publish")


class StepCosts:
    """Decodes with full batches whose prompts are computed before anything is timed."""

    def __init__(self, rig: Rig, writer: PromptWriter, asked: Sequence[Question]) -> None:
        self._rig = rig
        self._writer = writer
        self._asked = asked

    def rows(self) -> Iterator[Row]:
        """Measure everything."""
        for batch in _BATCHES:
            sampling = self._writer.exactly(_LONGEST)
            streams = self._rig.start(self._writer.requests(self._asked[:batch], sampling))
            phases = _phase_seconds()
            steps = [self._rig.step() for _ in range(_STEPS)]
            phases = {name: after - phases[name] for name, after in _phase_seconds().items()}
            self._rig.cancel(*streams)
            yield Row(f"step_ms_{batch}", _median_ms(steps), "ms", f"{batch} answers decode")
            if batch == _JUDGED:
                yield from _overhead(steps)
                for name, seconds in phases.items():
                    yield Row(
                        f"step_{name}_ms", 1e3 * seconds / _STEPS, "ms", f"mean, {batch} answers decode"
                    )


def _overhead(steps: Sequence[StepTime]) -> Iterator[Row]:
    outside = statistics.median(step.seconds - step.model_s for step in steps)
    share = outside / statistics.median(step.seconds for step in steps)
    what = f"all of a step but the model, {_JUDGED} answers decode"
    yield Row("step_overhead", share, "share", f"goal <= {_GOAL_SHARE}; {what}", share / _GOAL_SHARE)
    yield Row(
        "step_overhead_ms", 1e3 * outside, "ms", f"goal <= {_GOAL_MS:g}; {what}", 1e3 * outside / _GOAL_MS
    )


def _median_ms(steps: Sequence[StepTime]) -> float:
    return 1e3 * statistics.median(step.seconds for step in steps)


def _phase_seconds() -> dict[str, float]:
    """What the engine's own metrics say of its phases so far."""
    name = "internvl_llm_step_seconds_sum"
    return {phase: REGISTRY.get_sample_value(name, {"phase": phase}) or 0.0 for phase in _PHASES}
