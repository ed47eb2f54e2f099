"""How soon a place becomes free: the hint that goes with a refusal."""

from __future__ import annotations

_SMOOTHING = 0.2
_FEWEST_S, _MOST_S = 0.5, 60.0


class Pace:
    """Running mean of the time between starts while requests queue, in seconds.

    Starts of requests that found a free place do not count: they say how often requests come, not how fast
    they are served.
    """

    def __init__(self) -> None:
        self._mean: float | None = None
        self._since: float | None = None

    def wait(self, now: float) -> None:
        """Note that somebody has to wait."""
        if self._since is None:
            self._since = now

    def start(self, now: float, count: int) -> None:
        """Note that so many got a place."""
        if self._since is None or not count:
            return
        gap = (now - self._since) / count
        self._mean = gap if self._mean is None else self._mean + _SMOOTHING * (gap - self._mean)
        self._since = now

    def rest(self) -> None:
        """Note that nobody waits any more."""
        self._since = None

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next place is expected to become free, within sensible bounds."""
        mean = 1.0 if self._mean is None else self._mean
        return min(max(mean, _FEWEST_S), _MOST_S)

    def expected_wait_s(self, ahead: int) -> float:
        """Seconds until a request starts that has `ahead` others before it; 0 as long as nothing is known."""
        return (self._mean or 0.0) * (ahead + 1)
