"""What a gateway does beside its calls: it drops what is out of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from internvl.errors import Unavailable

SWEEP_S = 60.0


@asynccontextmanager
async def sweeping(*sweeps: Callable[[], Awaitable[object]], every_s: float = SWEEP_S) -> AsyncIterator[None]:
    """Call all `sweeps` again and again while the block runs. A store that is down is tried again later."""
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
        await asyncio.sleep(every_s)
