"""Running tests through the synchronous and the asyncio client, beside a gateway with stand-in tiers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from internvl_client import Answer, AsyncClient, Client
from tests.contract.gateway_tiers import Stack, bounded, gateway_stack


class Both:
    """Runs the same calls through the sync and the async client."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def events(self, *args: Any, **options: Any) -> list[list[Any]]:
        """All events of a turn as each client tells them, without times and ids."""
        async with AsyncClient(self._address) as client:
            told = [event async for event in client.chat(*args, **options).events()]
        return [_timeless(await asyncio.to_thread(self._sync_events, args, options)), _timeless(told)]

    def _sync_events(self, args: Any, options: Any) -> list[Any]:
        with Client(self._address) as client:
            return list(client.chat(*args, **options).events())


def _timeless(events: list[Any]) -> list[Any]:
    cleared = [dataclasses.replace(e, request_id="") if hasattr(e, "request_id") else e for e in events]
    return [dataclasses.replace(e, timings=None) if isinstance(e, Answer) else e for e in cleared]


def in_thread(test: Callable[[Stack, Client], None]) -> Callable[[], None]:
    """Run a test of the synchronous client beside the gateway's event loop."""

    @bounded
    async def run() -> None:
        async with gateway_stack() as stack:
            with Client(stack.address) as client:
                await asyncio.to_thread(test, stack, client)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    del run.__wrapped__  # type: ignore[attr-defined]
    return run
