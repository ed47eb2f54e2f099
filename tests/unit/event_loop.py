"""Asynchronous tests without a plugin, and waiting with a bound."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

LIMIT_S = 60


def bounded(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on a loop of its own; a hang fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), LIMIT_S))

    return run


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that has no event of its own; a hang fails."""
    async with asyncio.timeout(LIMIT_S / 2):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
