"""The queue of tiles: order, fairness, bounds and cancellation, without a model."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import Overloaded, Unavailable
from vision_service.batcher import TileJob, TileQueue


@dataclass(slots=True, eq=False)
class Tile:
    owner: str
    index: int
    started: bool = False

    @property
    def name(self) -> tuple[str, int]:
        return self.owner, self.index


@dataclass(slots=True)
class Jobs:
    """A queue, and the jobs in it by the name of their owner."""

    max_tiles: int = 1000
    queue: TileQueue[Tile] = field(init=False)
    by_owner: dict[str, TileJob[Tile]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = TileQueue(self.max_tiles)

    def put(self, owner: str, tiles: int) -> Sequence[Tile]:
        job = self.by_owner[owner] = self.queue.open(tiles)
        made = [Tile(owner, index) for index in range(tiles)]
        self.queue.offer(job, made)
        return made

    def take(self, budget: int) -> list[tuple[str, int]]:
        return [tile.name for tile in self.queue.take(budget) or []]

    def drain(self, budget: int) -> list[list[tuple[str, int]]]:
        batches = []
        while self.queue.depth:
            batches.append(self.take(budget))
        return batches


def test_a_small_job_never_waits_more_than_a_batch_behind_a_large_one() -> None:
    jobs = Jobs()
    jobs.put("document", 24)
    jobs.take(4)
    jobs.put("photo", 1)
    assert ("photo", 0) in jobs.take(4)


def test_the_first_batch_of_a_job_is_one_tile_so_that_it_leaves_at_once() -> None:
    jobs = Jobs()
    jobs.put("a", 6)
    assert jobs.drain(4) == [[("a", 0)], [("a", n) for n in range(1, 5)], [("a", 5)]]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 9))
def test_every_tile_leaves_once_and_in_order(sizes: list[int], budget: int) -> None:
    jobs = Jobs()
    for number, size in enumerate(sizes):
        jobs.put(str(number), size)
    batches = jobs.drain(budget)
    assert all(1 <= len(batch) <= budget for batch in batches)
    left = [tile for batch in batches for tile in batch]
    for number, size in enumerate(sizes):
        assert [index for owner, index in left if owner == str(number)] == list(range(size))
    assert len(left) == sum(sizes)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 24)),
        st.tuples(st.just("take"), st.integers(1, 8)),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(actions)
def test_whatever_happens_batches_are_bounded_fair_and_free_of_what_was_cancelled(
    steps: list[tuple[str, int]],
) -> None:
    """In every batch the tiles of any two jobs that both wait on are as many, give or take one."""
    jobs, waiting, taken = Jobs(), dict[str, int](), defaultdict[str, int](int)
    for number, (action, value) in enumerate(steps):
        if action == "put":
            jobs.put(str(number), value)
            waiting[str(number)] = value
        elif action == "cancel" and waiting:
            owner = sorted(waiting)[value % len(waiting)]
            jobs.queue.cancel(jobs.by_owner[owner])
            del waiting[owner]
        elif action == "take" and waiting:
            batch = jobs.take(value)
            assert 1 <= len(batch) <= value
            shares = {owner: sum(name == owner for name, _ in batch) for owner in waiting}
            assert sum(shares.values()) == len(batch)
            for owner, index in batch:
                assert index == taken[owner]
                taken[owner] += 1
                waiting[owner] -= 1
            unfinished = [
                shares[owner] for owner, left in waiting.items() if left and taken[owner] > shares[owner]
            ]
            assert max(unfinished, default=0) - min(unfinished, default=0) <= 1
            waiting = {owner: left for owner, left in waiting.items() if left}
        assert jobs.queue.depth == sum(waiting.values())


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 6))
def test_nobody_waits_longer_than_one_round_of_those_before(budget: int, tiles: int, others: int) -> None:
    jobs = Jobs()
    for number in range(others):
        jobs.put(str(number), tiles)
    jobs.take(budget) if others else None
    jobs.put("photo", 1)
    waited = 0
    while ("photo", 0) not in jobs.take(budget):
        waited += 1
    assert waited <= others // budget


def test_cancelled_tiles_leave_before_they_run() -> None:
    jobs = Jobs()
    jobs.put("a", 6)
    jobs.put("b", 2)
    assert jobs.take(1) == [("a", 0)]
    jobs.queue.cancel(jobs.by_owner["a"])
    assert jobs.drain(4) == [[("b", 0)], [("b", 1)]]
    jobs.queue.cancel(jobs.by_owner["b"])
    assert jobs.queue.depth == 0


def test_a_tile_of_two_jobs_runs_once_for_whichever_comes_first() -> None:
    jobs = Jobs()
    shared = jobs.put("a", 3)
    job = jobs.queue.open(3)
    jobs.queue.offer(job, shared)
    jobs.queue.cancel(jobs.by_owner["a"])
    assert jobs.drain(2) == [[("a", 0)], [("a", 1), ("a", 2)]]

    jobs = Jobs()
    shared = jobs.put("a", 3)
    jobs.queue.offer(jobs.queue.open(3), shared)
    assert sorted(name for batch in jobs.drain(9) for name in batch) == [("a", 0), ("a", 1), ("a", 2)]


def test_what_was_announced_counts_until_it_is_taken_or_skipped() -> None:
    queue: TileQueue[Tile] = TileQueue(10)
    job = queue.open(8)
    queue.offer(job, [Tile("a", 0)])
    queue.take(4)
    queue.skip(job)
    assert queue.depth == 6


def test_the_queue_is_bounded() -> None:
    jobs = Jobs(max_tiles=10)
    jobs.put("a", 8)
    with pytest.raises(Overloaded, match="8 tiles wait for the encoder and at most 10 may") as refused:
        jobs.put("b", 3)
    assert refused.value.retry_after_s > 0
    jobs.put("c", 2)
    assert jobs.queue.depth == 10


def test_a_job_over_the_bound_runs_when_nothing_else_waits() -> None:
    jobs = Jobs(max_tiles=10)
    jobs.put("a", 99)
    assert jobs.queue.depth == 99


def test_closing_wakes_the_taker_and_names_the_unfinished() -> None:
    jobs = Jobs()
    taken: list[object] = []
    taker = threading.Thread(target=lambda: taken.append(jobs.queue.take(4)))
    taker.start()
    assert jobs.queue.close() == []
    taker.join(timeout=10)
    assert taken == [None]

    jobs = Jobs()
    jobs.put("a", 2)
    assert [tile.name for tile in jobs.queue.close()] == [("a", 0), ("a", 1)]
    with pytest.raises(Unavailable):
        jobs.put("b", 1)
