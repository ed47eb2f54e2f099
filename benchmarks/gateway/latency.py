"""Time to the first token and between tokens: through the gateway, through a bare proxy, and straight."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.gateway.processes import measured
from benchmarks.report import Row
from internvl.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    content_pb2,
    llm_service_pb2,
    llm_service_pb2_grpc,
)

_STREAMS = 16
_QUESTIONS = 3
_TOKENS = 32

Ask = Callable[[str, int], AsyncIterator[Any]]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, of all streams."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


async def latency_rows(gateway: str, llm: str, rounds: int) -> list[Row]:
    """Rounds of 16 streams, each way in turn, so that all meet the same machine."""
    async with (
        measured("benchmarks.gateway.proxy", "--llm", llm) as proxy,
        grpc.aio.insecure_channel(gateway) as front,
        grpc.aio.insecure_channel(llm) as back,
    ):
        chat = chat_service_pb2_grpc.ChatServiceStub(front)
        straight, passed = (llm_service_pb2_grpc.LlmServiceStub(one) for one in (back, proxy.channel))
        ways: list[tuple[Ask, Times]] = [
            (lambda text, tokens: _through(chat, text, tokens), Times()),
            (lambda text, tokens: _straight(straight, text, tokens), Times()),
            (lambda text, tokens: _straight(passed, text, tokens), Times()),
        ]
        for ask, _ in ways:
            await _round(ask, "warm", Times())
        for number in range(rounds):
            for ask, times in ways if number % 2 else reversed(ways):
                await _round(ask, f"{number}", times)
    measured_times = tuple(times for _, times in ways)
    first, between = [times.first for times in measured_times], [times.between for times in measured_times]
    return [
        _added("added_ttft_p50_ms", first, 50, 3.0),
        _added("added_ttft_p99_ms", first, 99, 15.0),
        _added("added_itl_p50_ms", between, 50, 1.0),
    ]


async def _round(ask: Ask, name: str, times: Times) -> None:
    """Every stream asks one question after the other, of different lengths, so that they fall out of step."""

    async def stream(number: int) -> None:
        for turn in range(_QUESTIONS):
            await _stream(ask(f"Question {name} {number} {turn}", _TOKENS + 2 * number + turn), times)

    await asyncio.gather(*map(stream, range(_STREAMS)))


async def _stream(events: AsyncIterator[Any], times: Times) -> None:
    last = began = time.perf_counter()
    async for event in events:
        if not event.HasField("delta"):
            continue
        now = time.perf_counter()
        if last == began:
            times.first.append(now - began)
        else:
            times.between.append(now - last)
        last = now


def _through(stub: Any, text: str, tokens: int) -> AsyncIterator[Any]:
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text=text)])
    request = chat_service_pb2.ChatRequest(messages=[message], sampling=_exactly(tokens))
    return aiter(stub.Chat(request))


async def _straight(stub: Any, text: str, tokens: int) -> AsyncIterator[Any]:
    part = llm_service_pb2.PromptPart(text=text)
    message = llm_service_pb2.PromptMessage(role=content_pb2.ROLE_USER, parts=[part])
    opening = llm_service_pb2.GenerateOpen(messages=[message], sampling=_exactly(tokens))

    async def requests() -> AsyncIterator[llm_service_pb2.GenerateRequest]:
        yield llm_service_pb2.GenerateRequest(open=opening)

    async for response in stub.Generate(requests()):
        yield response


def _exactly(tokens: int) -> llm_service_pb2.SamplingParams:
    return llm_service_pb2.SamplingParams(max_tokens=tokens, min_tokens=tokens)


def _added(metric: str, ways: Sequence[list[float]], percent: int, goal: float) -> Row:
    through, straight, passed = (_percentile(times, percent) * 1e3 for times in ways)
    against = (
        f"goal <= {goal:g}; {through:.2f} by gateway, {straight:.2f} straight, {passed:.2f} by bare proxy"
    )
    return Row(metric, through - straight, "ms", against, (through - straight) / goal)


def _percentile(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]
