"""How soon a place becomes free: the hint that goes with a refusal."""

from __future__ import annotations

_SMOOTHING = 0.2
_FEWEST_S, _MOST_S = 0.5, 60.0


class Pace:
    """Running mean of the time between requests that leave, in seconds."""

    def __init__(self) -> None:
        self._mean = 1.0
        self._last: float | None = None

    def leave(self, now: float) -> None:
        """Note that a request has left its running place."""
        if self._last is not None:
            self._mean += _SMOOTHING * (now - self._last - self._mean)
        self._last = now

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next place is expected to become free, within sensible bounds."""
        return min(max(self._mean, _FEWEST_S), _MOST_S)
