"""The queue of tiles: order, fairness, bounds and cancellation, without a model."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import Overloaded, Unavailable
from vision_service.batcher import TileJob, TileQueue


def queue_of(*jobs: TileJob[str], max_tiles: int = 1000) -> TileQueue[str]:
    queue: TileQueue[str] = TileQueue(max_tiles)
    for job in jobs:
        queue.put(job)
    return queue


def drain(queue: TileQueue[str], budget: int) -> list[list[tuple[str, int]]]:
    batches = []
    while queue.depth:
        batch = queue.take(budget) or []
        batches.append([(tile.ticket, tile.index) for tile in batch])
    return batches


def test_a_small_job_never_waits_more_than_a_batch_behind_a_large_one() -> None:
    queue = queue_of(TileJob("document", 0, 24))
    queue.take(4)
    queue.put(TileJob("photo", 0, 1))
    assert ("photo", 0) in drain(queue, 4)[0]


def test_jobs_start_at_their_first_tile() -> None:
    assert drain(queue_of(TileJob("a", 5, 7)), 4) == [[("a", 5), ("a", 6)]]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 9))
def test_every_tile_leaves_once_and_in_order(sizes: list[int], budget: int) -> None:
    batches = drain(queue_of(*(TileJob(str(n), 0, size) for n, size in enumerate(sizes))), budget)
    assert all(1 <= len(batch) <= budget for batch in batches)
    assert all(len(batch) == budget for batch in batches[:-1])
    left = [tile for batch in batches for tile in batch]
    for number, size in enumerate(sizes):
        assert [index for ticket, index in left if ticket == str(number)] == list(range(size))
    assert len(left) == sum(sizes)


def test_cancelled_tiles_leave_before_they_run() -> None:
    first, second = TileJob("a", 0, 6), TileJob("b", 0, 2)
    queue = queue_of(first, second)
    queue.take(1)
    queue.cancel(first)
    assert drain(queue, 4) == [[("b", 0), ("b", 1)]]
    queue.cancel(second)
    assert queue.depth == 0


def test_the_queue_is_bounded() -> None:
    queue = queue_of(TileJob("a", 0, 8), max_tiles=10)
    with pytest.raises(Overloaded, match="8 tiles wait for the encoder and at most 10 may") as refused:
        queue.put(TileJob("b", 0, 3))
    assert refused.value.retry_after_s > 0
    queue.put(TileJob("c", 0, 2))
    assert queue.depth == 10


def test_a_job_over_the_bound_runs_when_nothing_else_waits() -> None:
    assert queue_of(TileJob("a", 0, 99), max_tiles=10).depth == 99


def test_closing_wakes_the_taker_and_names_the_unfinished() -> None:
    queue = queue_of()
    taken: list[object] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take(4)))
    taker.start()
    assert queue.close() == []
    taker.join(timeout=10)
    assert taken == [None]

    queue = queue_of(TileJob("a", 0, 2))
    assert queue.close() == ["a"]
    with pytest.raises(Unavailable):
        queue.put(TileJob("b", 0, 1))
