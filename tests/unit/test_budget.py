"""Prefill beside decodes is bounded by what steps really take."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.engine.budget import PrefillBudget
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import Share, Step
from tests.unit.scheduler_samples import limits, request

LIMITS = limits(kv_block_size=16, step_token_budget=256, max_running=32, decode_stretch=2.5)
ANY = Sequence(request())


def step(rows: int, prefill: int = 0, drafts: int = 0) -> Step:
    decodes = [Share(ANY, 1, (1,) * drafts) for _ in range(rows)]
    return Step([*decodes, *([Share(ANY, prefill)] if prefill else [])])


class Machine:
    """Takes `base + rows * row + prefill * token` seconds for a step, more or less."""

    def __init__(self, base: float, row: float, token: float, noise: float = 0.0) -> None:
        self._times = (base, row, token)
        self._noise = noise
        self._random = random.Random(1)

    def seconds(self, rows: int, prefill: int) -> float:
        base, row, token = self._times
        exact = base + rows * row + prefill * token
        return exact * (1 + self._random.uniform(-self._noise, self._noise))


def serve(machine: Machine, rows: int, steps: int) -> tuple[PrefillBudget, list[int]]:
    """A prompt, decodes, and from then on prompts without end beside them; the prefill of each mixed step."""
    budget = PrefillBudget(LIMITS)
    budget.observe(step(0, 256), machine.seconds(0, 256))
    for _ in range(5):
        budget.observe(step(rows), machine.seconds(rows, 0))
    given = []
    for _ in range(steps):
        prefill = budget.tokens(rows)
        given.append(prefill)
        budget.observe(step(rows, prefill), machine.seconds(rows, prefill))
    return budget, given


@pytest.mark.parametrize("rows", [1, 8, 32])
def test_a_step_stays_within_the_stretch_and_uses_it(rows: int) -> None:
    machine = Machine(base=0.010, row=0.0005, token=0.0002)
    _, given = serve(machine, rows, 50)
    stretch = [machine.seconds(rows, prefill) / machine.seconds(rows, 0) for prefill in given]
    assert max(stretch) <= 2.6
    assert min(stretch[10:]) > 2.0


def test_noise_and_hiccups_do_not_lead_astray() -> None:
    machine = Machine(base=0.010, row=0.0005, token=0.0002, noise=0.3)
    budget, _ = serve(machine, 8, 100)
    calm = budget.tokens(8)
    budget.observe(step(8, calm), 30.0)  # the machine slept
    assert budget.tokens(8) >= calm // 2
    exact = 1.5 * 0.014 / 0.0002
    assert exact / 1.5 < budget.tokens(8) < exact * 1.5


def test_learns_even_if_no_step_ever_only_decodes() -> None:
    machine = Machine(base=0.010, row=0.0005, token=0.0002)
    budget = PrefillBudget(LIMITS)
    budget.observe(step(0, 256), machine.seconds(0, 256))
    assert budget.tokens(4) == 16  # carefully, as long as decodes are unknown
    for _ in range(100):
        prefill = budget.tokens(4)
        budget.observe(step(4, prefill), machine.seconds(4, prefill))
    stretch = machine.seconds(4, budget.tokens(4)) / machine.seconds(4, 0)
    assert 1.5 < stretch < 4


def test_follows_a_machine_that_becomes_slower_at_decoding() -> None:
    budget, _ = serve(Machine(base=0.010, row=0.0, token=0.0002), 8, 20)
    before = budget.tokens(8)
    for _ in range(50):
        budget.observe(step(8), 0.020)
    assert budget.tokens(8) > 1.5 * before


def test_without_decodes_or_knowledge_the_whole_step_is_free() -> None:
    budget = PrefillBudget(LIMITS)
    assert budget.tokens(0) == budget.tokens(8) == 256
    budget.observe(step(8), 0.0)  # a clock that stands still teaches nothing
    budget.observe(Step(), 1.0)
    assert budget.tokens(8) == 256
    serve(Machine(0.010, 0.0005, 0.0002), 8, 20)
    assert budget.tokens(0) == 256


def test_guesses_count_as_rows() -> None:
    plain, guessed = PrefillBudget(LIMITS), PrefillBudget(LIMITS)
    for budget, seen in ((plain, step(8)), (guessed, step(2, drafts=3))):
        budget.observe(step(0, 256), 0.05)
        budget.observe(seen, 0.02)
    assert plain.tokens(8) == guessed.tokens(8)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 32), st.integers(0, 200), st.floats(0, 1e6, allow_subnormal=True)),
        max_size=50,
    )
)
def test_prefill_never_starves_whatever_was_seen(seen: list[tuple[int, int, float]]) -> None:
    budget = PrefillBudget(LIMITS)
    for rows, prefill, seconds in seen:
        budget.observe(step(rows, prefill), seconds)
    assert all(16 <= budget.tokens(rows) <= 256 for rows in range(33))
