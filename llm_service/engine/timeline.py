"""When things happened to one request."""

from __future__ import annotations

from llm_service.engine.events import Timings


class Timeline:
    """Stop watches of one request; all times on the engine's clock, in seconds."""

    def __init__(self, opened: float) -> None:
        self.opened = opened
        self.started: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.stalled_since: float | None = None
        self._tile_wait = 0.0

    def start(self, now: float) -> None:
        """Note a step; the first one ends the time in the queue."""
        if self.started is None:
            self.started = now

    def stall(self, now: float) -> None:
        """Note that nothing can be computed until a tile comes."""
        if self.stalled_since is None:
            self.stalled_since = now

    def resume(self, now: float) -> None:
        """Note that there is something to compute again."""
        if self.stalled_since is not None:
            self._tile_wait += now - max(self.stalled_since, self.started or now)
            self.stalled_since = None

    def token(self, now: float) -> None:
        """Note a token."""
        self.first_token = now if self.first_token is None else self.first_token
        self.last_token = now

    def timings(self) -> Timings:
        """The times of a request that has generated at least one token."""
        started = self.started or self.opened
        first = self.first_token or started
        return Timings(
            queue_s=started - self.opened,
            prefill_s=first - started,
            decode_s=(self.last_token or first) - first,
            tile_wait_s=self._tile_wait,
        )
