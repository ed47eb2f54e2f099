"""Processor time of the gateway for a turn and for a token of it, beside that of a bare proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.gateway.bare import BareRig
from benchmarks.report import Row

_STREAMS = 16
_TURNS = 12
_TOKENS = 96

Ask = Callable[[int], Awaitable[None]]
Seconds = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Cost:
    """Milliseconds of processor time."""

    turn: float
    token: float


async def processor_rows(rig: BareRig) -> list[Row]:
    """16 streams, a token for each of them every 10 ms, as a language service under load gives them."""
    gateway = await _cost(rig.say, rig.gateway.cpu_seconds)
    proxy = await _cost(rig.say_by_proxy, rig.proxy.cpu_seconds)
    return [
        _row("gateway_cpu_ms_per_token", gateway.token, proxy.token),
        _row("gateway_cpu_ms_per_turn", gateway.turn, proxy.turn),
    ]


async def _cost(ask: Ask, seconds: Seconds) -> _Cost:
    await _used(ask, seconds, turns=2, tokens=8)
    short = await _used(ask, seconds, turns=_TURNS, tokens=1)
    long = await _used(ask, seconds, turns=_TURNS, tokens=1 + _TOKENS)
    turns = _STREAMS * _TURNS
    return _Cost(turn=short / turns * 1e3, token=(long - short) / (turns * _TOKENS) * 1e3)


async def _used(ask: Ask, seconds: Seconds, *, turns: int, tokens: int) -> float:
    async def stream() -> None:
        for _ in range(turns):
            await ask(tokens)

    before = seconds()
    await asyncio.gather(*(stream() for _ in range(_STREAMS)))
    return seconds() - before


def _row(metric: str, value: float, floor: float) -> Row:
    return Row(metric, value, "ms", f"{floor:.3f} of a bare grpc.aio proxy, 16 streams", value / floor)
