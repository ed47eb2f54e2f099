"""When a call that lost its replica is made again: seldom, and never so often that it makes things worse."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from gateway import metrics
from gateway.tiers.replica import ReplicaLost

_RESERVE = 10.0
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How much is tried again.

    Attributes:
        per_turn: replicas that one turn may lose.
        ratio: retries of all turns together, for each turn that begins, beside a reserve of ten.
        failover_wait_s: longest wait for a replica to come back or up, once a turn has lost one.
    """

    per_turn: int = 3
    ratio: float = 0.2
    failover_wait_s: float = 10.0


class RetryBudget:
    """What all turns together may still try again. Without it, an outage would bring a flood."""

    def __init__(self, config: RetryConfig) -> None:
        self._config = config
        self._left = _RESERVE

    def attempts(self) -> Attempts:
        """The attempts of one more turn or call."""
        self._left = min(self._left + self._config.ratio, max(_RESERVE, 100 * self._config.ratio))
        return Attempts(self, self._config)

    def withdraw(self) -> bool:
        """Take one retry, if one is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Attempts:
    """What one turn may still try again.

    Attributes:
        lost: addresses of the replicas that it lost.
    """

    def __init__(self, budget: RetryBudget, config: RetryConfig) -> None:
        self.lost: list[str] = []
        self._budget = budget
        self._config = config

    @property
    def patience_s(self) -> float:
        """How long the next call may wait for a replica: a turn that has begun is worth some."""
        return self._config.failover_wait_s if self.lost else 0.0

    async def again(self, lost: ReplicaLost) -> None:
        """Return when the call may be made again.

        Raises:
            ReplicaLost: it may not; `lost` itself.
        """
        allowed = len(self.lost) < self._config.per_turn and self._budget.withdraw()
        metrics.RETRIES.labels("yes" if allowed else "no").inc()
        if not allowed:
            raise lost
        if self.lost:
            pause = min(_FIRST_PAUSE_S * 2 ** len(self.lost), _MOST_PAUSE_S)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        self.lost.append(lost.address)
