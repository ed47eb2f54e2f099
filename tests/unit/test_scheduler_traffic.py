"""Any traffic on any small cache: every answer is what it would be alone, and nothing leaks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from internvl.errors import Overloaded
from llm_service.engine.request import Request, TileKey
from llm_service.engine.sequence import Sequence
from tests.unit.scheduler_samples import BLOCK, Bench, answer, embeddings, request, send_tiles

_PICTURES = st.sampled_from(
    [
        [],
        [TileKey("a", 0), TileKey("a", 1)],
        [TileKey("b", 0), TileKey("b", 1)],  # ids and sizes of "a", other pixels
        [TileKey("a", 0), TileKey("b", 0), TileKey("a", 0)],  # one picture twice
    ]
)
_ENDINGS = st.sampled_from([[], [2], [2, 2, 2, 2, 2], [2, 2, 2, 2, 1, 1, 1, 1, 1]])


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Often with a beginning that others have had."""
    text, tiles = [1, 1, 1, *draw(_ENDINGS)], draw(_PICTURES)
    n = draw(st.sampled_from([1, 1, 1, 2, 3]))
    max_tokens, priority = draw(st.integers(1, 24)), draw(st.integers(0, 2))
    wanted = request(text, tiles, n=n, max_tokens=max_tokens, priority=priority)
    if n > 1 or draw(st.booleans()):
        return wanted
    delivered = answer(wanted)[: draw(st.integers(0, max_tokens - 1))]
    return request(text, tiles, max_tokens=max_tokens, priority=priority, delivered=delivered)


class Traffic(RuleBasedStateMachine):
    """Requests come, tiles come, steps run with guesses good and bad, requests are cancelled."""

    @initialize(
        blocks=st.integers(14, 40),
        running=st.integers(3, 6),
        drafts=st.integers(0, 5),
        budget=st.integers(7, 24),
        reuse=st.booleans(),
    )
    def start(self, blocks: int, running: int, drafts: int, budget: int, reuse: bool) -> None:
        self.bench = Bench(
            self.guess,
            kv_blocks=blocks,
            max_running=running,
            draft_tokens=drafts,
            step_token_budget=budget,
            prefix_cache=reuse,
        )
        self.scheduler = self.bench.scheduler
        self.requests: list[Request] = []
        self.truth: dict[tuple[Request, int], list[int]] = {}
        self.guesses = 0

    @rule(wanted=st.lists(requests(), min_size=1, max_size=4), with_tiles=st.booleans())
    def submit(self, wanted: list[Request], with_tiles: bool) -> None:
        for one in wanted:
            try:
                self.bench.submit(one, with_tiles=with_tiles)
            except Overloaded:
                assert len(self.scheduler.waiting) >= self.bench.limits.queue_limit
            else:
                self.requests.append(one)

    @precondition(lambda self: self.everybody)
    @rule(data=st.data())
    def tile_arrives(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.everybody))
        if chosen.missing is not None:
            chosen.receive(chosen.missing.tile, embeddings(chosen.missing.tile))

    @precondition(lambda self: self.everybody)
    @rule(data=st.data())
    def all_tiles_arrive(self, data: st.DataObject) -> None:
        send_tiles(data.draw(st.sampled_from(self.everybody)))

    @precondition(lambda self: self.everybody)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.everybody))
        for one in self.everybody:
            if one.request is chosen.request:
                self.scheduler.remove(one)
        self.requests.remove(chosen.request)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.bench.now += seconds

    @rule(count=st.integers(1, 20))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        self.bench.admit()
        running = self.scheduler.running
        decoding = {one for one in running if one.is_decoding}
        preempted = self.scheduler.preemptions
        has_work = self.scheduler.has_work
        lengths = {one: one.length for one in running}

        step = self.bench.step()

        assert bool(step.shares) == has_work
        assert sum(share.tokens + len(share.drafts) for share in step.shares) <= (
            self.bench.limits.step_token_budget
        )
        grown = {one for one, length in lengths.items() if one.length > length}
        lost = self.scheduler.preemptions - preempted
        assert len(decoding - grown) <= lost  # decode never starves
        assert all(len(one.generated) <= one.request.sampling.max_tokens for one in running)

    def guess(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        """The truth, with a wrong token sooner or later."""
        self.guesses += 1
        truth = self.answer(sequence.request, sequence.choice)[len(sequence.generated) :][:most]
        wrong = self.guesses % 7
        return tuple(token + (place == wrong) for place, token in enumerate(truth))

    def answer(self, wanted: Request, choice: int) -> list[int]:
        if (wanted, choice) not in self.truth:
            self.truth[wanted, choice] = answer(wanted, choice)
        return self.truth[wanted, choice]

    @property
    def everybody(self) -> list[Sequence]:
        return [*self.scheduler.waiting, *self.scheduler.running]

    @invariant()
    def references_are_exact(self) -> None:
        pool = self.scheduler.blocks
        held = Counter(block for one in self.everybody for block in one.blocks)
        assert [pool.references(block) for block in range(pool.total)] == [
            held[block] for block in range(pool.total)
        ]
        assert pool.used == len(held)
        assert pool.free + pool.cached + pool.used == pool.total
        assert not any(one.blocks for one in self.scheduler.waiting)

    @invariant()
    def nothing_is_wasted(self) -> None:
        assert all(len(one.blocks) == -(-one.computed // BLOCK) for one in self.everybody)
        unused = self.scheduler.blocks.used * BLOCK - self.scheduler.kv_tokens
        assert 0 <= unused <= (BLOCK - 1) * len(self.scheduler.running)

    @invariant()
    def order_and_places_hold(self) -> None:
        waiting, running = self.scheduler.waiting, self.scheduler.running
        assert [one.rank for one in waiting] == sorted(one.rank for one in waiting)
        assert sum(one.places for one in running) <= self.bench.limits.max_running
        assert {id(one) for one in waiting}.isdisjoint(map(id, running))

    @invariant()
    def nothing_is_computed_before_its_tile_is_there(self) -> None:
        assert all(one.computed <= one.ready_length for one in self.everybody)

    def teardown(self) -> None:
        """With every tile there, everybody comes through, with the right answer."""
        for one in getattr(self, "everybody", []):
            send_tiles(one)
        for _ in range(3000):
            if not self.everybody:
                break
            self.step()
        assert not self.everybody
        assert self.scheduler.blocks.used == self.scheduler.kv_tokens == 0
        for wanted in self.requests:
            for choice in range(wanted.sampling.n):
                assert self.bench.answers[wanted, choice] == self.answer(wanted, choice)


Traffic.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_traffic = pytest.mark.timeout(120)(Traffic.TestCase)
