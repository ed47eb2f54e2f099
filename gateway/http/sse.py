"""Server-sent events: a response that is written while it comes to be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from gateway.http.errors import error_body
from internvl.errors import DeadlineExceeded, InternalError, ServingError
from internvl.telemetry import get_logger

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Proxies cut connections that are silent for a minute; a long prompt is read in silence.
_KEEP_ALIVE_S = 15.0
# A client that takes nothing for this long is gone.
_WRITE_TIMEOUT_S = 60.0

_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}

_log = get_logger("http")


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        data: what it carries, to be sent as JSON; a text is sent as it is.
        name: its type; empty for none.
    """

    data: Mapping[str, Any] | str
    name: str = ""


ErrorEvent = Callable[[ServingError], Event]


def plain_error(error: ServingError) -> Event:
    """An error in the middle of a stream, as clients of chat completions expect it."""
    return Event(error_body(error))


class EventStream(Response):
    """Sends events as they come.

    What is raised before the first one is raised here, so that it can still become a status of its own; what
    is raised later becomes the last event.
    """

    def __init__(self, events: AsyncGenerator[Event], on_error: ErrorEvent = plain_error) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._on_error = on_error

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        upcoming: asyncio.Future[Event] | None = None
        try:
            first = await anext(self._events)
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await _write(send, encode(first))
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(self._events))
                done, _ = await asyncio.wait([upcoming], timeout=_KEEP_ALIVE_S)
                if not done:
                    await _write(send, b": still at work\n\n")
                    continue
                event, last = self._outcome(upcoming)
                upcoming = None
                if event is not None:
                    await _write(send, encode(event))
                if last:
                    break
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.wait([upcoming])
            await self._events.aclose()

    def _outcome(self, done: asyncio.Future[Event]) -> tuple[Event | None, bool]:
        """The next event, and whether it is the last one."""
        try:
            return done.result(), False
        except StopAsyncIteration:
            return None, True
        except ServingError as error:
            _log.info("stream failed", reason=error.reason)
            return self._on_error(error), True
        except Exception:
            _log.error("stream failed", exc_info=True)
            return self._on_error(InternalError("the server failed; its log has the details")), True


def encode(event: Event) -> bytes:
    """The event as it is sent."""
    data = event.data if isinstance(event.data, str) else json.dumps(event.data, ensure_ascii=False)
    name = f"event: {event.name}\n" if event.name else ""
    return f"{name}data: {data}\n\n".encode()


async def _write(send: Send, data: bytes) -> None:
    try:
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except TimeoutError:
        raise DeadlineExceeded("the client does not read its answer") from None
