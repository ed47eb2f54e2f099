"""The compute thread: one thread owns the model and loops; everybody else sends it messages."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from internvl.errors import ServingError, Unavailable
from internvl.telemetry import get_logger
from llm_service.engine.engine import Engine
from llm_service.engine.estimate import Estimate
from llm_service.engine.events import Event, Failed
from llm_service.engine.request import Embeddings, Request, TileKey
from llm_service.engine.stream import EventStream

_log = get_logger("engine")

Publish: TypeAlias = Callable[[Request, Event], None]
BuildEngine: TypeAlias = Callable[[Publish], Engine]


@dataclass(frozen=True, slots=True)
class _Submit:
    request: Request


@dataclass(frozen=True, slots=True)
class _Tile:
    request: Request
    tile: TileKey
    embeddings: Embeddings


@dataclass(frozen=True, slots=True)
class _Cancel:
    request: Request


@dataclass(frozen=True, slots=True)
class _Fail:
    request: Request
    error: ServingError


@dataclass(frozen=True, slots=True)
class _Estimate:
    request: Request
    answer: asyncio.Future[Estimate]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Message: TypeAlias = _Submit | _Tile | _Cancel | _Fail | _Estimate | _Stop


class EngineThread:
    """An engine on its own thread, for use from one event loop.

    The model is loaded on the thread too: a second thread calling into it would start a second pool of OpenMP
    threads and slow everything down.
    """

    def __init__(
        self, build: BuildEngine, stream_limit: int, on_crash: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare; `running` starts it.

        Args:
            build: loads the model and makes the engine around a `publish` function; called on the thread.
            stream_limit: most deltas of one answer that may wait to be read.
            on_crash: is called on the event loop if the engine ends without being told to. All requests have
                failed by then, and new ones will.
        """
        self._build = build
        self._stream_limit = stream_limit
        self._on_crash = on_crash
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._outbox: list[tuple[Request, Event]] = []
        self._streams: dict[Request, EventStream] = {}
        self._asked: set[asyncio.Future[Estimate]] = set()
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop
        self._started: asyncio.Future[None]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EngineThread]:
        """Start the thread and wait for the engine; on leaving, fail what is still running and join it.

        Raises:
            Exception: whatever `build` raises.
        """
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        thread = threading.Thread(target=self._run, name="engine", daemon=True)
        thread.start()
        try:
            await self._started
            yield self
        finally:
            self._inbox.put(_Stop())
            await asyncio.to_thread(thread.join)

    @contextmanager
    def generate(self, request: Request) -> Iterator[EventStream]:
        """Submit a request; its events can be read inside the block, and leaving it frees all it holds.

        Raises:
            Overloaded: the queue is full. The stream may say so too, if it fills up meanwhile.
            Unavailable: the engine has stopped.
        """
        if self._engine is None:
            raise Unavailable("the engine has stopped")
        self._engine.check_queue()
        stream = EventStream(self._stream_limit, on_overflow=lambda error: self.fail(request, error))
        self._streams[request] = stream
        self._inbox.put(_Submit(request))
        try:
            yield stream
        finally:
            self.cancel(request)

    async def estimate(self, request: Request) -> Estimate:
        """What a request would meet if it came now, between two steps of the engine.

        Raises:
            Unavailable: the engine has stopped.
        """
        if self._engine is None:
            raise Unavailable("the engine has stopped")
        answer: asyncio.Future[Estimate] = self._loop.create_future()
        self._asked.add(answer)
        self._inbox.put(_Estimate(request, answer))
        try:
            return await answer
        finally:
            self._asked.discard(answer)

    def send_tile(self, request: Request, tile: TileKey, embeddings: Embeddings) -> None:
        """Pass on the embeddings of one tile."""
        self._inbox.put(_Tile(request, tile, embeddings))

    def cancel(self, request: Request) -> None:
        """Free everything a request holds, within one step. Harmless for one that has ended."""
        if self._streams.pop(request, None) is not None:
            self._inbox.put(_Cancel(request))

    def fail(self, request: Request, error: ServingError) -> None:
        """End a request with an error at once, and free everything it holds within one step."""
        if (stream := self._streams.pop(request, None)) is not None:
            stream.fail(error)
            self._inbox.put(_Fail(request, error))

    def _run(self) -> None:
        """The thread's whole life."""
        try:
            engine = self._build(lambda request, event: self._outbox.append((request, event)))
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._started.set_exception, error)
            return
        self._engine = engine
        self._loop.call_soon_threadsafe(self._started.set_result, None)
        try:
            self._serve(engine)
        except BaseException:  # a panic of the grammar library is no Exception
            _log.critical("engine crashed", exc_info=True)
            self._loop.call_soon_threadsafe(self._on_crash)
        finally:
            self._engine = None
            self._loop.call_soon_threadsafe(self._end)

    def _serve(self, engine: Engine) -> None:
        """Take messages, step, send events; until told to stop."""
        while True:
            for message in self._messages(engine):
                match message:
                    case _Submit(request):
                        engine.submit(request)
                    case _Tile(request, tile, embeddings):
                        engine.receive_tile(request, tile, embeddings)
                    case _Cancel(request):
                        engine.cancel(request)
                    case _Fail(request, error):
                        engine.fail(request, error)
                    case _Estimate(request, answer):
                        self._loop.call_soon_threadsafe(_settle, answer, engine.estimate(request))
                    case _Stop():
                        return
            engine.step()
            self._flush()

    def _messages(self, engine: Engine) -> Iterator[_Message]:
        """What is in the inbox; if there is nothing to compute, wait for it or for the next time-out."""
        try:
            if not engine.has_work:
                expiry = engine.next_expiry
                yield self._inbox.get(timeout=None if expiry is None else max(expiry - time.monotonic(), 0))
            while True:
                yield self._inbox.get_nowait()
        except queue.Empty:
            return

    def _flush(self) -> None:
        """Send the step's events to the event loop, which is woken once for all of them."""
        if self._outbox:
            events, self._outbox = self._outbox, []
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[tuple[Request, Event]]) -> None:
        for request, event in events:
            if stream := self._streams.get(request):
                stream.push(event)

    def _end(self) -> None:
        for stream in self._streams.values():
            stream.push(Failed(Unavailable("the engine has stopped")))
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(Unavailable("the engine has stopped"))


def _settle(answer: asyncio.Future[Estimate], estimate: Estimate) -> None:
    if not answer.done():  # whoever asked may have left
        answer.set_result(estimate)
