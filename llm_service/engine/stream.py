"""The answer of one request on its way to the reader, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from internvl.errors import ServingError
from llm_service.engine.events import Admitted, Delta, Event, Failed, Finished, SlowReader


class EventStream:
    """Events of one request, in order, up to `Finished` or an error. Belongs to one event loop."""

    def __init__(self, limit: int, on_overflow: Callable[[SlowReader], None]) -> None:
        """Start empty.

        Args:
            limit: most deltas that may wait to be read.
            on_overflow: is called when one more comes, and must `fail` the stream.
        """
        self._limit = limit
        self._on_overflow = on_overflow
        self._events: deque[Event] = deque()
        self._ended = False
        self._arrived = asyncio.Event()

    def push(self, event: Event) -> None:
        """Add an event; nothing once the stream has ended."""
        if self._ended:
            return
        if isinstance(event, Delta) and len(self._events) >= self._limit:
            self._on_overflow(
                SlowReader(
                    f"{self._limit} messages of the answer wait to be read, the most this server keeps",
                    retry_after_s=1.0,
                    metadata={"stream_limit": self._limit},
                )
            )
            return
        self._ended = isinstance(event, Finished | Failed)
        self._events.append(event)
        self._arrived.set()

    def fail(self, error: ServingError) -> None:
        """End the stream with an error, before anything that still waits to be read."""
        if not self._ended:
            self._events.clear()
            self.push(Failed(error))

    async def __aiter__(self) -> AsyncIterator[Admitted | Delta | Finished]:
        """Yield events up to and including `Finished`.

        Raises:
            ServingError: the request failed.
        """
        while True:
            event = await self._next()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Finished):
                return

    async def _next(self) -> Event:
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()
