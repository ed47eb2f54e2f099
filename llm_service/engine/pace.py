"""How soon a place becomes free: the hint that goes with a refusal."""

from __future__ import annotations

_SMOOTHING = 0.2
_FEWEST_S, _MOST_S = 0.5, 60.0


class Pace:
    """Running mean of the time between requests that leave, in seconds.

    Only departures while somebody waits count: what leaves a half-empty engine says how often requests come,
    not how fast they are served.
    """

    def __init__(self) -> None:
        self._mean: float | None = None
        self._since: float | None = None

    def watch(self, now: float) -> None:
        """Note that somebody waits from now on."""
        self._since = now

    def rest(self) -> None:
        """Note that nobody waits any more."""
        self._since = None

    def leave(self, now: float) -> None:
        """Note that a request has left its running place."""
        if self._since is None:
            return
        gap = now - self._since
        self._mean = gap if self._mean is None else self._mean + _SMOOTHING * (gap - self._mean)
        self._since = now

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next place is expected to become free, within sensible bounds."""
        mean = 1.0 if self._mean is None else self._mean
        return min(max(mean, _FEWEST_S), _MOST_S)

    def expected_wait_s(self, ahead: int) -> float:
        """Seconds until a request starts that has `ahead` others before it; 0 as long as nothing is known."""
        return (self._mean or 0.0) * (ahead + 1)
