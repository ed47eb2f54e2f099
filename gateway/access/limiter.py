"""How much each key may ask for, on this gateway."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from gateway.access.api_keys import Allowance
from gateway.caller import Caller
from internvl.errors import Overloaded

_MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class _Account:
    """What one caller has used: `credit` calls may begin now, as of `counted`."""

    credit: float
    counted: float
    calls: int = 0
    turns: int = 0


class Limiter:
    """Counts calls and turns by key. A minute's calls may come at once; they flow back evenly.

    Turns are counted beside calls, because they may outlive them: who has all its turns under way can still
    look how far they are.

    Each gateway counts alone: behind several, a key may ask for its allowance at each.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._accounts: OrderedDict[Caller, _Account] = OrderedDict()

    @asynccontextmanager
    async def admitted(self, caller: Caller, allowance: Allowance) -> AsyncIterator[None]:
        """Count a call, which is under way as long as the block.

        Raises:
            Overloaded: the key's rate or number of calls under way is used up; says when to try again.
        """
        account = self._account(caller, allowance)
        _check_room(account.calls, allowance, "calls")
        self._charge(account, allowance)
        account.calls += 1
        try:
            yield
        finally:
            account.calls -= 1

    @contextmanager
    def turn(self, caller: Caller, allowance: Allowance) -> Iterator[None]:
        """Count a turn, which is under way as long as the block.

        Raises:
            Overloaded: the key's number of turns under way is used up.
        """
        account = self._account(caller, allowance)
        _check_room(account.turns, allowance, "turns")
        account.turns += 1
        try:
            yield
        finally:
            account.turns -= 1

    def charge(self, caller: Caller, allowance: Allowance) -> None:
        """Count what came within another call as a call of its own.

        Raises:
            Overloaded: the key's rate is used up; says when to try again.
        """
        self._charge(self._account(caller, allowance), allowance)

    def _account(self, caller: Caller, allowance: Allowance) -> _Account:
        account = self._accounts.get(caller)
        if account is None:
            account = _Account(float(allowance.requests_per_minute or 0), self._clock())
            self._accounts[caller] = account
            self._forget_idle()
        self._accounts.move_to_end(caller)
        return account

    def _charge(self, account: _Account, allowance: Allowance) -> None:
        per_minute = allowance.requests_per_minute
        if per_minute is None:
            return
        now = self._clock()
        flowed = (now - account.counted) * per_minute / 60
        account.credit = min(float(per_minute), account.credit + flowed)
        account.counted = now
        if account.credit < 1:
            raise Overloaded(
                f"this key may make {per_minute} calls a minute",
                retry_after_s=(1 - account.credit) * 60 / per_minute,
                metadata={"requests_per_minute": per_minute},
            )
        account.credit -= 1

    def _forget_idle(self) -> None:
        """Keep the memory bounded: tokens may name ever new callers."""
        if len(self._accounts) <= _MAX_REMEMBERED:
            return
        for caller, account in list(self._accounts.items())[: _MAX_REMEMBERED // 10]:
            if not account.calls and not account.turns:
                del self._accounts[caller]


def _check_room(under_way: int, allowance: Allowance, what: str) -> None:
    most = allowance.concurrency
    if most is not None and under_way >= most:
        raise Overloaded(
            f"this key may have {most} {what} under way", retry_after_s=1.0, metadata={"concurrency": most}
        )
