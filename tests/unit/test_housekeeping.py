"""What a gateway drops by and by."""

from __future__ import annotations

import asyncio

import pytest

from gateway.storage.housekeeping import sweeping
from internvl.errors import Unavailable
from tests.unit.event_loop import bounded


@pytest.mark.parametrize("trouble", [Unavailable("the store is down"), OSError("broken"), KeyError("bug")])
def test_sweep_that_fails_is_tried_again_and_stops_no_other(trouble: Exception) -> None:
    @bounded
    async def work() -> None:
        tries = 0
        tried_twice, swept = asyncio.Event(), asyncio.Event()

        async def fails() -> None:
            nonlocal tries
            tries += 1
            if tries == 2:
                tried_twice.set()
            raise trouble

        async def sweeps() -> None:
            swept.set()

        async with sweeping(fails, sweeps, every_s=0.001):
            await tried_twice.wait()
            await swept.wait()

    work()
