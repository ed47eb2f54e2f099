"""A client that costs little: requests are made beforehand, answers stay bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from internvl.v1 import content_pb2, vision_service_pb2

_ENCODE = "/internvl.v1.VisionService/Encode"
_PLAN = "/internvl.v1.VisionService/Plan"
_WARM_UP = 50
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one call, in seconds since it began: when the first tile came, and when the last.

    Attributes:
        lengths: of all messages that came, in bytes.
    """

    first_s: float
    last_s: float
    lengths: tuple[int, ...]

    @property
    def tiles(self) -> int:
        """How many came: the layout is before them and the summary after them."""
        return len(self.lengths) - 2


def upload(data: bytes, **options: Any) -> list[bytes]:
    """The messages of one call."""
    opening = vision_service_pb2.EncodeOpen(image=content_pb2.ImageOptions(**options), size_bytes=len(data))
    messages = [vision_service_pb2.EncodeRequest(open=opening)]
    for start in range(0, len(data), _CHUNK_BYTES):
        messages.append(vision_service_pb2.EncodeRequest(chunk=data[start : start + _CHUNK_BYTES]))
    return [message.SerializeToString() for message in messages]


def encode_all(address: str, uploads: Sequence[list[bytes]], at_once: int) -> tuple[float, list[Timing]]:
    """Have files encoded, `at_once` of them at any time; the seconds that took, and each call's own."""
    return asyncio.run(_encode_all(address, uploads, at_once))


async def _encode_all(
    address: str, uploads: Sequence[list[bytes]], at_once: int
) -> tuple[float, list[Timing]]:
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(_ENCODE, request_serializer=None, response_deserializer=None)
        await channel.channel_ready()
        waiting, timings = iter(uploads), list[Timing]()

        async def client() -> None:
            for messages in waiting:
                timings.append(await _encode(call, messages))

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        return time.perf_counter() - began, timings


async def _encode(call: Any, messages: list[bytes]) -> Timing:
    began = time.perf_counter()
    came = [(time.perf_counter() - began, len(message)) async for message in call(iter(messages))]
    return Timing(came[1][0], came[-2][0], tuple(length for _, length in came))


def seconds_of_plans(address: str, request: bytes, count: int) -> list[float]:
    """Call `Plan` so many times, one call after another, and say how long each took."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(_PLAN, request_serializer=None, response_deserializer=None)
        grpc.channel_ready_future(channel).result(timeout=10)
        return [_seconds(call, request) for _ in range(_WARM_UP + count)][_WARM_UP:]


def _seconds(call: Any, request: bytes) -> float:
    began = time.perf_counter()
    call(request)
    return time.perf_counter() - began
