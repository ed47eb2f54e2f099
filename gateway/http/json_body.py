"""The body of a request, read within bounds, and its JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from gateway.http.config import BodyLimits
from gateway.http.errors import BodyTooLarge, BodyTooSlow, NotJson
from internvl.errors import InvalidField, Overloaded

Receive = Callable[[], Awaitable[Any]]

MAX_DEPTH = 64
MAX_VALUES = 200_000

# A larger body is taken apart beside the event loop.
_AT_ONCE = 2**20
# Looked through between two chances for the event loop.
_PIECE = 2**16
# Before each value, and in the body of an array or object, there is one of these.
_STRUCTURE = b",[{"
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))

# A client that is still writing when its call is refused sees a broken pipe instead of the reason. So what it
# sends is read and thrown away for a moment.
_DRAIN_S = 5.0


class ClientGone(Exception):
    """The client left before its request was complete. Nobody is there to be told."""


class BodyReader:
    """Reads bodies; all that are held together stay below one bound.

    Attributes:
        held: their bytes at this moment.
    """

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._parsing = asyncio.Lock()
        self.held = 0

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """An account of what one request holds, closed with the block at the latest."""
        held = Held(self)
        try:
            yield held
        finally:
            held.let_go()

    async def read_json(self, headers: Mapping[str, str], receive: Receive, held: Held) -> dict[str, Any]:
        """The JSON object that a request carries.

        Raises:
            ServingError: it is none, or breaks a limit.
            ClientGone: the client left.
        """
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson("the body must be JSON, with content-type: application/json")
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limits.max_bytes:
            if headers.get("expect", "").lower() != "100-continue":
                await _drain(receive)
            raise self._too_large()
        body = await self._read(receive, held)
        if len(body) <= _AT_ONCE:
            return parse_json(body)
        # One after the other: a body takes a few times its bytes while it is taken apart.
        async with self._parsing:
            return await asyncio.to_thread(parse_json, body)

    async def _read(self, receive: Receive, held: Held) -> bytearray:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                while True:
                    message = await _next(receive)
                    piece = message.get("body", b"")
                    if len(body) + len(piece) > self._limits.max_bytes:
                        body.clear()
                        if message.get("more_body", False):
                            await _drain(receive)
                        raise self._too_large()
                    held.add(len(piece))
                    body += piece
                    if not message.get("more_body", False):
                        return body
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive within {self._limits.timeout_s:g} s") from None

    def take(self, size: int) -> None:
        """Count bytes that are now held. For `Held` alone."""
        if self.held + size > self._limits.max_total_bytes:
            raise Overloaded("too many large requests are being read at this moment", retry_after_s=1.0)
        self.held += size

    def give_back(self, size: int) -> None:
        """Count bytes no longer. For `Held` alone."""
        self.held -= size

    def _too_large(self) -> BodyTooLarge:
        limit = self._limits.max_bytes
        return BodyTooLarge(
            f"the body is over the limit of {limit} bytes; upload large media over gRPC and name it by id",
            metadata={"limit": limit},
        )


class Held:
    """Bytes that one request holds."""

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader
        self.size = 0

    def add(self, size: int) -> None:
        """Count more of them.

        Raises:
            Overloaded: all requests together hold too much.
        """
        self._reader.take(size)
        self.size += size

    def let_go(self) -> None:
        """Count them no longer."""
        self._reader.give_back(self.size)
        self.size = 0


def parse_json(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object of bounded depth and count. Never a NaN, never half a character.

    Raises:
        InvalidField: it is none.
    """
    _check_count(body)
    try:
        # Surrogates that JSON spells out one by one are no text that could be sent on.
        parsed = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidField("body", "is not valid JSON in UTF-8") from None
    if not isinstance(parsed, dict):
        raise InvalidField("body", "must be a JSON object")
    _check_size(parsed)
    return parsed


def _check_count(body: bytes | bytearray) -> None:
    """Refuse a body of far too many values before they are made, each of many times its bytes.

    What JSON's own reader would take for a value is one here too, up to where the body stops being JSON. An
    empty array counts as two, so twice the limit may pass.
    """
    at = count = quotes = 0
    while at < len(body):
        piece = body[at : at + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and len(piece) > 1:
            piece = piece[:-1]  # what it escapes comes next
        at += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        between = piece.split(b'"')
        outside = between[quotes % 2 :: 2]
        quotes += len(between) - 1
        count += len(b"".join(outside).translate(None, _NO_STRUCTURE))
        if max(count, quotes // 4) > 2 * MAX_VALUES:
            raise _too_many_values()


def _too_many_values() -> InvalidField:
    return InvalidField("body", f"holds over {MAX_VALUES} values")


def _check_size(parsed: dict[str, Any]) -> None:
    level: list[Any] = [parsed]
    count = depth = 0
    while level:
        depth += 1
        count += len(level)
        if depth > MAX_DEPTH:
            raise InvalidField("body", f"is nested over {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            raise _too_many_values()
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                _check_text(*value)
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _check_text(value)
        level = below


def _check_text(*texts: str) -> None:
    for text in texts:
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidField("body", "holds half a surrogate pair, which is no text") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


async def _next(receive: Receive) -> Mapping[str, Any]:
    message: Mapping[str, Any] = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


async def _drain(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while (await _next(receive)).get("more_body", False):
                pass
