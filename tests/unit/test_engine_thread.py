"""The compute thread as a service: messages in from the event loop, bounded streams out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from internvl.errors import ConfigError, DeadlineExceeded, Overloaded, Unavailable
from llm_service.engine.engine import Engine
from llm_service.engine.events import Admitted, Delta, Finished, SlowReader
from llm_service.engine.request import Request
from llm_service.engine.stream import EventStream
from llm_service.engine.thread import EngineThread, Publish
from llm_service.runner import BatchRunner
from tests.unit.engine_samples import (
    EchoModel,
    SpelledAnswer,
    embeddings,
    expected_tokens,
    is_empty,
    limits,
    metric,
    regime_of,
    request,
    tile_keys,
)
from tests.unit.event_loop import bounded, until


class GatedModel(EchoModel):
    """Runs a step only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def forward(self, chunks):  # type: ignore[no-untyped-def]
        self.entered.set()
        assert self.gate.wait(timeout=20)
        return super().forward(chunks)


class Service:
    """An engine thread on a gated model."""

    def __init__(
        self, stream_limit: int = 1000, on_crash: Callable[[], None] = lambda: None, **changes: int
    ) -> None:
        self.model = GatedModel()
        self.engine: Engine
        self._changes = changes
        self.thread = EngineThread(self._build, stream_limit, on_crash)

    def _build(self, publish: Publish) -> Engine:
        runner = BatchRunner(self.model)
        self.engine = Engine(runner, limits(**self._changes), regime_of, SpelledAnswer, publish)
        return self.engine

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EngineThread]:
        async with self.thread.running() as thread:
            yield thread


async def tokens(stream: EventStream) -> list[int]:
    return [token async for event in stream if isinstance(event, Delta) for token in event.token_ids]


async def answer(thread: EngineThread, asked: Request) -> list[int]:
    with thread.generate(asked) as stream:
        return await tokens(stream)


@bounded
async def test_answers_come_through() -> None:
    service = Service()
    asked = [request((1, n), max_tokens=20) for n in range(12)]
    async with service.running() as thread:
        answers = await asyncio.gather(*(answer(thread, one) for one in asked))
    assert answers == [expected_tokens(one) for one in asked]


@bounded
async def test_tiles_reach_a_waiting_request() -> None:
    service = Service()
    asked = request((1, 2), tile_keys("a", 3))
    async with service.running() as thread:
        with thread.generate(asked) as stream:
            events = aiter(stream)
            admitted = await anext(events)
            assert isinstance(admitted, Admitted)
            for tile in tile_keys("a", 3):
                thread.send_tile(asked, tile, embeddings(tile))
            got = [token async for event in events if isinstance(event, Delta) for token in event.token_ids]
    assert got == expected_tokens(asked)


@bounded
async def test_leaving_early_frees_everything() -> None:
    service = Service()
    async with service.running() as thread:
        with thread.generate(request((1, 2), tile_keys("a", 1))) as stream:
            assert isinstance(await anext(aiter(stream)), Admitted)
            assert not is_empty()
        await until(is_empty)


@bounded
async def test_a_request_cancelled_during_a_step_gets_no_second_one() -> None:
    service = Service()
    async with service.running() as thread:
        service.model.gate.clear()
        with thread.generate(request((1, 2), max_tokens=100, stop_ids=frozenset())):
            await asyncio.to_thread(service.model.entered.wait, 20)
        service.model.gate.set()
        await until(is_empty)
        assert len(service.model.steps) == 1


@bounded
async def test_a_slow_reader_is_cut_and_others_are_not() -> None:
    service = Service(stream_limit=40)
    lazy = request((1, 2), max_tokens=60, stop_ids=frozenset())
    eager = request((1, 3), max_tokens=35, stop_ids=frozenset())

    def ended() -> float:
        """Whether it was cut or reached its length first is up to the engine's speed."""
        return sum(metric("requests_total", outcome=outcome) for outcome in ("length", "failed"))

    before = ended()
    async with service.running() as thread:
        with thread.generate(lazy) as unread:
            got = await answer(thread, eager)
            await until(lambda: ended() == before + 2)
            await thread.estimate(eager)  # comes behind all events
            with pytest.raises(SlowReader) as cut:
                await tokens(unread)
    assert got == expected_tokens(eager)
    assert cut.value.metadata == {"stream_limit": "40"}


@bounded
async def test_an_end_is_never_lost_to_a_full_stream() -> None:
    service = Service(stream_limit=3)
    asked = request((1, 2), max_tokens=2, stop_ids=frozenset())
    ended = metric("requests_total", outcome="length")
    async with service.running() as thread:
        with thread.generate(asked) as stream:
            await until(lambda: metric("requests_total", outcome="length") > ended)
            await thread.estimate(asked)  # comes behind all events
            last = [event async for event in stream][-1]
    assert isinstance(last, Finished)


@bounded
async def test_a_full_queue_is_refused_without_waiting_for_the_step() -> None:
    service = Service(max_running=1, queue_limit=1)
    async with service.running() as thread:
        first = asyncio.create_task(answer(thread, request()))
        await asyncio.to_thread(service.model.entered.wait, 20)
        second = asyncio.create_task(answer(thread, request()))
        await asyncio.gather(first, second)
        service.model.gate.clear()
        service.model.entered.clear()
        tasks = [asyncio.create_task(answer(thread, request())) for _ in range(2)]
        await asyncio.to_thread(service.model.entered.wait, 20)
        await until(lambda: metric("requests_waiting") == 1)
        with pytest.raises(Overloaded):  # the model stands still: nobody but the caller's own thread answers
            await answer(thread, request())
        service.model.gate.set()
        await asyncio.gather(*tasks)


@bounded
async def test_time_outs_come_without_any_message() -> None:
    service = Service(tile_timeout_s=0.05)  # type: ignore[arg-type]
    async with service.running() as thread:
        with pytest.raises(DeadlineExceeded, match="tile 0 did not come"):
            await answer(thread, request((1, 2), tile_keys("a", 1)))
        with pytest.raises(DeadlineExceeded, match="deadline"):
            await answer(thread, request((1, 2), tile_keys("a", 1), deadline=time.monotonic() + 0.02))


@bounded
async def test_stopping_fails_what_runs_and_ends_the_thread() -> None:
    before = threading.active_count()
    service = Service()
    async with service.running() as thread:
        stuck = asyncio.create_task(answer(thread, request((1, 2), tile_keys("a", 1))))
        await until(lambda: bool(service.model.steps))
    with pytest.raises(Unavailable):
        await stuck
    with pytest.raises(Unavailable):
        await answer(service.thread, request())
    assert not any(thread.name == "engine" for thread in threading.enumerate())
    assert threading.active_count() <= before + 1  # the event loop's executor keeps the thread that joined it


class PanicException(BaseException):
    """As a panic of the grammar library's Rust reaches Python: no `Exception`."""


@pytest.mark.parametrize("error", [ZeroDivisionError, PanicException])
@bounded
async def test_a_crash_is_told_to_everybody(error: type[BaseException]) -> None:
    def step() -> None:
        raise error

    crashed = asyncio.Event()
    service = Service(on_crash=crashed.set)
    async with service.running() as thread:
        service.engine.step = step  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await answer(thread, request())
        await crashed.wait()
        with pytest.raises(Unavailable):
            await answer(thread, request())


@bounded
async def test_what_loading_raises_is_raised_at_start() -> None:
    def broken(_: Publish) -> Engine:
        raise ConfigError("device: gpu:7 does not exist")

    with pytest.raises(ConfigError, match="gpu:7"):
        async with EngineThread(broken, 10).running():
            pass
