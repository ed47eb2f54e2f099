"""On the real nano model, an answer is the same to the last bit whatever happens around it.

That is the promise of the batch-invariant mode. The fast mode makes none: it is only measured here, against
the same answers. `make test-equality JSON=FILE` keeps the report.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.equality.comparison import Drift, differences, pairs
from tests.equality.mixes import Mix, mixes
from tests.equality.nano_engine import Nano
from tests.equality.variants import VARIANTS, Answers, Stage, Variant, alone

FEW, MANY = 6, 200
CLOSE = 0.1  # natural logarithms; what int8 keys and values may make of a rounding error

EVERYTHING_HAPPENS = (
    "accepted drafts",
    "cancelled",
    "copies",
    "crossings",
    "hit tokens",
    "preemptions",
    "prefill beside decode",
)

_slow_examples = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
_fixed = settings(_slow_examples, max_examples=FEW, derandomize=True, phases=[Phase.generate])


def answers_alone(stage: Stage) -> list[Answers]:
    return [outcome.answers for outcome in alone(stage, [])]


def check(name: str, variant: Variant, stage: Stage, known: list[Answers]) -> None:
    """Every answer is to the bit the one that its request gets alone."""
    wrong = differences(known, variant(stage, known))
    assert not wrong, f"{name}: {len(wrong)} answers differ, the first: {wrong[0]}"


def check_all(mix: Mix, invariant: Nano, seen: Counter[str]) -> None:
    stage = Stage(invariant, mix, seen)
    known = answers_alone(stage)
    for name, variant in VARIANTS.items():
        check(name, variant, stage, known)


def assert_everything_happened(seen: Counter[str]) -> None:
    """What never happened was not tested."""
    assert all(seen[name] for name in EVERYTHING_HAPPENS), seen


def test_nothing_changes_an_answer(invariant: Nano) -> None:
    seen: Counter[str] = Counter()
    _fixed(given(mixes())(lambda mix: check_all(mix, invariant, seen)))()
    assert_everything_happened(seen)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_changes_an_answer_in_many_mixes(invariant: Nano, capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()
    _many = settings(_slow_examples, max_examples=MANY)
    _many(given(mixes())(lambda mix: check_all(mix, invariant, seen)))()
    with capsys.disabled():
        print(f"\n{MANY} mixes: {dict(seen)}")
    assert_everything_happened(seen)


def measure(mix: Mix, invariant: Nano, fast: Nano, report: dict[str, Drift]) -> None:
    """Count how often the fast mode differs; where it differs by more than rounding, that is an error."""
    known = answers_alone(Stage(invariant, mix, Counter()))
    stage = Stage(fast, mix, Counter())
    for name, variant in {"alone": alone, **VARIANTS}.items():
        for pair in pairs(known, variant(stage, known)):
            report[name].add(pair)
            assert pair.logprob_gap < CLOSE, f"{name}: {pair}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_how_often_the_fast_mode_differs(
    invariant: Nano, fast: Nano, capsys: pytest.CaptureFixture[str]
) -> None:
    report: dict[str, Drift] = defaultdict(Drift)
    _same = settings(_slow_examples, max_examples=MANY, derandomize=True, phases=[Phase.generate])
    _same(given(mixes())(lambda mix: measure(mix, invariant, fast, report)))()
    summary = {name: drift.summary() for name, drift in report.items()}
    with capsys.disabled():
        print(f"\n{json.dumps(summary, indent=2)}")
    if path := os.environ.get("EQUALITY_JSON"):
        Path(path).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
