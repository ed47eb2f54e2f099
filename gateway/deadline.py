"""How long whoever calls will wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

# What the hop itself needs: a tier gives up this much before its caller, who then still hears why.
_HOP_S = 0.05
_HOP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the client stops waiting.

    Attributes:
        at: on the monotonic clock, in seconds; None if it waits for ever.
    """

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that many seconds from now."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float | None:
        """What is left of it."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    @property
    def next_hop_s(self) -> float | None:
        """The timeout of the next call to a tier: a little less than what is left."""
        left = self.remaining_s
        return None if left is None else left - min(_HOP_S, _HOP_SHARE * left)
