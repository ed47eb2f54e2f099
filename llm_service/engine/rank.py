"""Who goes first: priority, and patience rewarded."""

from __future__ import annotations

from typing import NamedTuple


class Rank(NamedTuple):
    """A sequence's place in every order; the smallest goes first.

    One level of priority is worth `aging_s` seconds of waiting. Since all age alike, who is ahead of whom
    never changes: it is enough to compare when each would have come had its priority been 0.

    Attributes:
        due: when it came, less `aging_s` for each level of priority; seconds on the engine's clock.
        arrival: counts requests, the first is 0.
        choice: which answer of its request.
    """

    due: float = 0.0
    arrival: int = 0
    choice: int = 0

    def level(self, now: float, aging_s: float) -> int:
        """Priority plus one for each `aging_s` seconds since it came."""
        return int((now - self.due) // aging_s)
