"""The scheduler's promises, kept over any traffic: budgets, order, gating, no starvation, nothing leaked."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from internvl.errors import ConfigError, FailedPrecondition, Overloaded
from llm_service.engine.ledger import KvLedger
from llm_service.engine.pace import Pace
from llm_service.engine.request import TileKey
from llm_service.engine.scheduler import Scheduler
from llm_service.engine.sequence import Sequence
from tests.unit.engine_samples import embeddings, limits, request, tile_keys

LIMITS = limits(kv_budget_tokens=120, max_running=3, queue_limit=4, step_token_budget=8)


def sequence(length: int = 3, tiles: int = 0, max_tokens: int = 4) -> Sequence:
    return Sequence(request([1] * length, tile_keys("a", tiles), max_tokens=max_tokens))


def scheduler(**changes: int) -> Scheduler:
    return Scheduler(limits(**changes), Pace())


def submitted(to: Scheduler, *sequences: Sequence) -> None:
    for one in sequences:
        to.submit(one)
        to.admit()


class Traffic(RuleBasedStateMachine):
    """Requests come, tiles come, steps run, requests are cancelled: in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS, Pace())
        self.arrived: list[Sequence] = []  # accepted and not yet running, in order
        self.running: list[Sequence] = []

    @rule(length=st.integers(1, 30), tiles=st.integers(0, 4), max_tokens=st.integers(1, 20))
    def submit(self, length: int, tiles: int, max_tokens: int) -> None:
        new = sequence(length, tiles, max_tokens)
        full = len(self.scheduler.waiting) >= LIMITS.queue_limit
        if full:
            with pytest.raises(Overloaded) as refused:
                self.scheduler.submit(new)
            assert refused.value.retry_after_s > 0
        else:
            self.scheduler.submit(new)
            self.arrived.append(new)
        self.admit()

    def admit(self) -> None:
        for admitted in self.scheduler.admit():
            assert admitted is self.arrived.pop(0)  # first come, first served
            self.running.append(admitted)

    @precondition(lambda self: self.arrived or self.running)
    @rule(data=st.data())
    def tile_arrives(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.arrived + self.running))
        if chosen.missing is not None:
            chosen.receive(chosen.missing.tile, embeddings(chosen.missing.tile))

    @precondition(lambda self: self.arrived or self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.remove(data.draw(st.sampled_from(self.arrived + self.running)))

    @rule()
    def step(self) -> None:
        self.admit()
        ready = [one for one in self.running if one.remaining]
        decoding = [one for one in self.running if one.is_decoding]
        has_work = self.scheduler.has_work
        work = self.scheduler.schedule()

        shares = {share.sequence: share.tokens for share in work}
        assert len(shares) == len(work)
        assert sum(shares.values()) <= LIMITS.step_token_budget
        assert all(shares[one] == 1 for one in decoding)  # decode never starves
        assert bool(work) == bool(ready) == has_work
        prefilling = [one for one in ready if not one.is_decoding]
        if prefilling:
            oldest = prefilling[0]
            left = LIMITS.step_token_budget - len(decoding)
            assert shares[oldest] == min(oldest.remaining, left) > 0  # nor does prefill
        for one, tokens in work:
            one.advance(tokens)
            assert one.computed <= one.ready_length  # never past a missing tile
            if one.is_complete:
                one.generated.append(1)
                if one.is_finished:
                    self.remove(one)

    def remove(self, one: Sequence) -> None:
        self.scheduler.remove(one)
        for place in (self.arrived, self.running):
            if one in place:
                place.remove(one)

    @invariant()
    def accounts_are_true(self) -> None:
        assert list(self.scheduler.waiting) == self.arrived
        assert list(self.scheduler.running) == self.running
        assert len(self.arrived) <= LIMITS.queue_limit
        assert len(self.running) <= LIMITS.max_running
        booked = sum(one.request.kv_tokens for one in self.running)
        assert self.scheduler.kv_tokens == booked <= LIMITS.kv_budget_tokens

    def teardown(self) -> None:
        """With every tile there, everybody comes through."""
        for one in [*self.arrived, *self.running]:
            for tile in dict.fromkeys(slot.tile for slot in one.request.slots):
                one.receive(tile, embeddings(tile))
        for _ in range(2000):
            if not (self.arrived or self.running):
                break
            self.step()
        assert not self.arrived
        assert not self.running
        assert self.scheduler.kv_tokens == 0


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_decodes_share_a_step_with_a_long_prefill() -> None:
    short, long = sequence(2), sequence(60)
    both = scheduler(step_token_budget=8)
    submitted(both, short)
    short.advance(2)
    short.generated.append(1)
    submitted(both, long)
    assert [(share.sequence, share.tokens) for share in both.schedule()] == [(short, 1), (long, 7)]


def test_a_stalled_prefill_leaves_its_budget_to_others() -> None:
    stalled, other = sequence(3, tiles=1), sequence(20)
    both = scheduler(step_token_budget=8)
    submitted(both, stalled, other)
    assert [share.tokens for share in both.schedule()] == [1, 7]
    stalled.advance(1)
    assert both.schedule() == [(other, 8)]


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    first, large, small = sequence(50), sequence(60), sequence(1)
    queue = scheduler(kv_budget_tokens=80)
    submitted(queue, first, large, small)
    assert queue.waiting == (large, small)
    queue.remove(first)
    assert queue.admit() == [large, small]


def test_a_queue_place_opens_only_when_nothing_can_start() -> None:
    tight = scheduler(max_running=1, queue_limit=1)
    submitted(tight, sequence(), sequence())
    with pytest.raises(Overloaded) as refused:
        tight.submit(sequence())
    assert refused.value.metadata == {"queue_limit": "1"}


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(FailedPrecondition, match="need 1004 tokens of KV cache, this server has 1000"):
        scheduler(kv_budget_tokens=1000).submit(sequence(1000))


def test_limits_under_which_prefill_would_starve_are_refused() -> None:
    with pytest.raises(ConfigError, match="--step-token-budget"):
        limits(max_running=8, step_token_budget=8)


def test_ledger_refuses_to_overbook() -> None:
    ledger = KvLedger(10)
    ledger.book("a", 8)
    assert not ledger.fits(3)
    with pytest.raises(ValueError, match="cannot book"):
        ledger.book("b", 3)
    with pytest.raises(ValueError, match="cannot book"):
        ledger.book("a", 1)
    ledger.release("a")
    ledger.release("a")
    assert ledger.booked == 0


def test_pace_follows_departures_within_bounds() -> None:
    pace = Pace()
    for second in range(0, 300, 10):
        pace.leave(float(second))
    assert pace.retry_after_s == pytest.approx(10, rel=0.1)
    for second in range(300, 100_000, 1000):
        pace.leave(float(second))
    assert pace.retry_after_s == 60


def test_one_tile_serves_two_slots_in_gating() -> None:
    twice = Sequence(request((1, 2), [TileKey("a", 0), TileKey("a", 0)]))
    one = scheduler()
    submitted(one, twice)
    twice.receive(TileKey("a", 0), embeddings(TileKey("a", 0)))
    assert one.schedule()[0].tokens == twice.length
