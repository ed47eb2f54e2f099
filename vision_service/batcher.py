"""The queue between requests and the encoder: whatever waits while it computes is the next batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from internvl.errors import Overloaded, Unavailable

_RETRY_AFTER_S = 1.0


class Startable(Protocol):
    """What can wait in the queue. One tile may wait in several jobs; the first of them starts it."""

    started: bool


Tile = TypeVar("Tile", bound=Startable)


@dataclass(slots=True, eq=False)
class TileJob(Generic[Tile]):
    """The tiles of one request, of which some may have been offered to the encoder.

    Attributes:
        announced: tiles that are still to be taken, offered or not.
        offered: tiles that may be taken, in order.
        has_begun: whether any was taken.
    """

    announced: int
    offered: deque[Tile] = field(default_factory=deque)
    has_begun: bool = False


@dataclass(slots=True)
class TileQueue(Generic[Tile]):
    """A bounded queue of tiles, fair between requests; safe between threads.

    Jobs take turns, one tile each, so that a document of many tiles never holds up a photo of one for more
    than a batch. The tiles of one job leave in order. The first batch takes only one tile of a job, so that
    it can leave before the rest is computed.

    Attributes:
        max_tiles: most tiles announced; a job that finds nothing announced is always taken.
    """

    max_tiles: int
    _jobs: set[TileJob[Tile]] = field(default_factory=set)
    _line: deque[TileJob[Tile]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    @property
    def depth(self) -> int:
        """Tiles announced and not taken."""
        with self._changed:
            return self._depth()

    def open(self, tiles: int) -> TileJob[Tile]:
        """Announce a job of so many tiles.

        Raises:
            Overloaded: its tiles do not fit beside those that wait.
            Unavailable: the queue is closed.
        """
        with self._changed:
            self._check_open()
            waiting = self._depth()
            if waiting and waiting + tiles > self.max_tiles:
                raise Overloaded(
                    f"{waiting} tiles wait for the encoder and at most {self.max_tiles} may; try again later",
                    retry_after_s=_RETRY_AFTER_S,
                    metadata={"queued_tiles": waiting, "limit": self.max_tiles},
                )
            job: TileJob[Tile] = TileJob(tiles)
            self._jobs.add(job)
            return job

    def offer(self, job: TileJob[Tile], tiles: Sequence[Tile]) -> None:
        """Let the next tiles of a job be taken.

        Raises:
            Unavailable: the queue is closed.
        """
        with self._changed:
            self._check_open()
            if tiles and not job.offered:
                self._line.append(job)
            job.offered.extend(tiles)
            self._changed.notify()

    def skip(self, job: TileJob[Tile]) -> None:
        """Count one tile of a job as taken: it need not be encoded."""
        with self._changed:
            job.announced -= 1

    def take(self, budget: int) -> list[Tile] | None:
        """Wait for the next batch and start it: at least one tile, at most `budget`; None once closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return None
                if batch := self._take_turns(budget):
                    return batch

    def cancel(self, job: TileJob[Tile]) -> None:
        """Forget what is left of a job; nothing if it was all taken."""
        with self._changed:
            self._jobs.discard(job)
            if job.offered:
                self._line.remove(job)
                job.offered.clear()

    def close(self) -> list[Tile]:
        """End the queue; returns the tiles that were offered and will never be taken."""
        with self._changed:
            self._closed = True
            left = [tile for job in self._line for tile in job.offered if not tile.started]
            self._jobs.clear()
            self._line.clear()
            self._changed.notify_all()
            return left

    def _take_turns(self, budget: int) -> list[Tile]:
        batch: list[Tile] = []
        begun: list[TileJob[Tile]] = []
        while self._line and len(batch) < budget:
            job = self._line.popleft()
            tile = job.offered.popleft()
            job.announced -= 1
            is_new = not job.has_begun and not tile.started
            if not tile.started:
                tile.started = job.has_begun = True
                batch.append(tile)
            if job.offered:
                (begun if is_new else self._line).append(job)
        self._line.extend(begun)
        return batch

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the vision service is stopping")

    def _depth(self) -> int:
        return sum(job.announced for job in self._jobs)
