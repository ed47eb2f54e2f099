"""The queue between requests and the encoder: whatever waits while it computes is the next batch."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from internvl.errors import Overloaded, Unavailable

Ticket = TypeVar("Ticket")

_RETRY_AFTER_S = 1.0


@dataclass(slots=True, eq=False)
class TileJob(Generic[Ticket]):
    """The tiles of one request that still wait: `next_tile` up to, not including, `end_tile`."""

    ticket: Ticket
    next_tile: int
    end_tile: int

    @property
    def waiting(self) -> int:
        return self.end_tile - self.next_tile


@dataclass(frozen=True, slots=True)
class QueuedTile(Generic[Ticket]):
    """One tile of a batch: tile `index` of the request behind `ticket`."""

    ticket: Ticket
    index: int


@dataclass(slots=True)
class TileQueue(Generic[Ticket]):
    """A bounded queue of tiles, fair between requests; safe between threads.

    Jobs take turns, one tile each, so that a document of many tiles never holds up a photo of one for more
    than a batch. The tiles of one job leave in order.

    Attributes:
        max_tiles: most tiles waiting; a job that finds the queue empty is always taken.
    """

    max_tiles: int
    _jobs: deque[TileJob[Ticket]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    @property
    def depth(self) -> int:
        """Tiles waiting."""
        with self._changed:
            return self._depth()

    def put(self, job: TileJob[Ticket]) -> None:
        """Append a job.

        Raises:
            Overloaded: its tiles do not fit beside those waiting.
            Unavailable: the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("the vision service is stopping")
            waiting = self._depth()
            if waiting and waiting + job.waiting > self.max_tiles:
                raise Overloaded(
                    f"{waiting} tiles wait for the encoder and at most {self.max_tiles} may; try again later",
                    retry_after_s=_RETRY_AFTER_S,
                    metadata={"queued_tiles": waiting, "limit": self.max_tiles},
                )
            self._jobs.append(job)
            self._changed.notify()

    def take(self, budget: int) -> list[QueuedTile[Ticket]] | None:
        """Wait for the next batch: at least one tile, at most `budget`; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return None
            batch: list[QueuedTile[Ticket]] = []
            while self._jobs and len(batch) < budget:
                batch.append(self._take_one())
            return batch

    def cancel(self, job: TileJob[Ticket]) -> None:
        """Forget what still waits of a job; nothing if it was all taken."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> list[Ticket]:
        """End the queue; returns the tickets of the jobs that will not be finished."""
        with self._changed:
            self._closed = True
            left = [job.ticket for job in self._jobs]
            self._jobs.clear()
            self._changed.notify_all()
            return left

    def _take_one(self) -> QueuedTile[Ticket]:
        job = self._jobs.popleft()
        tile = QueuedTile(job.ticket, job.next_tile)
        job.next_tile += 1
        if job.waiting:
            self._jobs.append(job)
        return tile

    def _depth(self) -> int:
        return sum(job.waiting for job in self._jobs)
