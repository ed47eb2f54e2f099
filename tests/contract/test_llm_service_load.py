"""Many requests at once: queues, deadlines, cancellation, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import grpc
import pytest

from internvl.errors import (
    Overloaded,
)
from internvl.rpc import open_channel
from internvl.v1 import llm_service_pb2, llm_service_pb2_grpc
from tests.contract.llm_client import (
    IDLE,
    Stream,
    counter,
    gauges,
    llm_service,
    opening,
    tile,
    user,
    visual,
)
from tests.unit.event_loop import bounded, until

OUTCOMES = ("stop", "length", "failed", "refused", "cancelled")
ENDLESS = {"max_tokens": 350, "min_tokens": 350}


@bounded
async def test_answers_beside_each_other_are_those_alone(folder: Path) -> None:
    asked = [opening(user(visual("ab"[n % 2]), "shape " * n), seed=n, temperature=1.0) for n in range(6)]
    tiles = [[tile("ab"[n % 2], index) for index in range(2)] for n in range(6)]
    async with llm_service(folder, step_token_budget=40) as service:
        alone = [await service.answer(one, some) for one, some in zip(asked, tiles, strict=True)]
        together = await asyncio.gather(*map(service.answer, asked, tiles))
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


@bounded
async def test_a_full_queue_says_when_to_come_again(folder: Path) -> None:
    async with llm_service(folder, max_running=1, queue_limit=1) as service:
        holds = service.generate(opening(user(visual(), "Hello")))
        await holds.admitted()
        waits = asyncio.create_task(service.answer(opening(user("Hello"))))
        await until(lambda: gauges()[0] == 1)
        error = await service.error(opening(user("Hello")))
        await holds.send(tile("a", 0), tile("a", 1))
        assert (await holds.rest()).token_ids
        assert (await waits).token_ids
    assert isinstance(error, Overloaded)
    assert error.retry_after_s >= 0.5
    assert error.metadata == {"queue_limit": "1"}


@pytest.mark.parametrize("phase", ["queued", "waiting for a tile", "decoding"])
@bounded
async def test_cancelling_frees_everything(folder: Path, phase: str) -> None:
    async with llm_service(folder, max_running=1) as service:
        if phase == "queued":
            holds = service.generate(opening(user(visual(), "Hello")))
            await holds.admitted()
            stream = service.generate(opening(user("Hello")))
            await stream.write(llm_service_pb2.GenerateRequest(open=opening(user("Hello"))))
            await until(lambda: gauges()[0] == 1)
            stream.call.cancel()
            await until(lambda: gauges()[0] == 0)
            stream = holds
        elif phase == "decoding":
            stream = service.generate(opening(user("Hello"), **ENDLESS))
            await stream.admitted()
            await stream.delta()
        else:
            stream = service.generate(opening(user(visual(), "Hello")))
            await stream.admitted()
            await stream.send(tile("a", 0))
        assert gauges()[1] == 1
        stream.call.cancel()
        await until(lambda: gauges() == IDLE)
        assert (await service.answer(opening(user("Hello")))).token_ids


@bounded
async def test_cancelling_several_answers_frees_all_of_them(folder: Path) -> None:
    async with llm_service(folder) as service:
        stream = service.generate(opening(user("Hello"), n=4, temperature=2.0, **ENDLESS))
        await stream.admitted()
        await stream.delta()
        await until(lambda: gauges()[1] == 4)
        stream.call.cancel()
        await until(lambda: gauges() == IDLE)
        assert counter("kv_cache_usage_ratio") == 0


@bounded
async def test_every_request_ends_once_in_the_metrics(folder: Path) -> None:
    def ended() -> dict[str, float]:
        return {name: counter("requests_total", outcome=name) or 0 for name in OUTCOMES}

    async with llm_service(folder, max_running=1, queue_limit=1, tile_timeout_s=0.3) as service:
        before = ended()
        await service.answer(opening(user("Hello")))
        await service.error(opening(user(visual(), "Hello")))
        stream = service.generate(opening(user("Hello"), **ENDLESS))
        await stream.admitted()
        waits = asyncio.create_task(service.answer(opening(user("Hello"), stop_token_ids=range(1200))))
        await until(lambda: gauges()[0] == 1)
        await service.error(opening(user("Hello")))
        stream.call.cancel()
        await waits
        await until(lambda: gauges() == IDLE)
        counted = {name: count - before[name] for name, count in ended().items()}
    assert counted == {"length": 1, "failed": 1, "cancelled": 1, "stop": 1, "refused": 1}


@bounded
async def test_a_deadline_ends_a_request_in_the_queue(folder: Path) -> None:
    async with llm_service(folder, max_running=1) as service:
        holds = service.generate(opening(user(visual(), "Hello")))
        await holds.admitted()
        late = service.generate(opening(user("Hello")), timeout=0.5)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await late.admitted()
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: gauges()[:2] == (0, 1))
        await holds.send(tile("a", 0), tile("a", 1))
        assert (await holds.rest()).token_ids


@bounded
async def test_stopping_lets_running_streams_finish(folder: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with llm_service(folder) as service:
            channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{service.port}"))
            stub = llm_service_pb2_grpc.LlmServiceStub(channel)
            stream = Stream(stub.Generate(), opening(user("Hello"), max_tokens=100, min_tokens=100))
            await stream.admitted()
            rest = asyncio.create_task(stream.rest())
        assert len((await rest).token_ids) == 100


@bounded
async def test_nothing_is_left_behind(folder: Path) -> None:
    async with llm_service(folder) as service:
        await service.answer(opening(user("Hello")))
        assert any(thread.name == "engine" for thread in threading.enumerate())
    assert not any(thread.name == "engine" for thread in threading.enumerate())
    assert gauges() == IDLE
