"""What a gateway does beside its calls: it drops what is out of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from internvl.errors import Unavailable
from internvl.telemetry import get_logger

SWEEP_S = 60.0

_log = get_logger("store")


@asynccontextmanager
async def sweeping(*sweeps: Callable[[], Awaitable[object]], every_s: float = SWEEP_S) -> AsyncIterator[None]:
    """Call all `sweeps` again and again while the block runs. What fails is tried again later."""
    task = asyncio.create_task(_sweep(sweeps, every_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _sweep(sweeps: Sequence[Callable[[], Awaitable[object]]], every_s: float) -> None:
    while True:
        for sweep in sweeps:
            try:
                await sweep()
            except Unavailable:
                continue  # the store has logged it
            except Exception:
                # Without it nothing would ever expire again, and nobody would notice.
                _log.error("sweep failed", exc_info=True)
        await asyncio.sleep(every_s)
