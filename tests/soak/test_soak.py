"""Thousands of requests, most of them trouble; afterwards it is as if nothing had happened.

`make soak` sends 10,000 of them; `make test` a few hundred.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kernels.paged import KvDtype
from llm_service.kv_budget import KvBudget
from tests.contract.llm_client import gauges, llm_service, opening, tile, user, visual
from tests.soak.clients import WEIGHTS, Scene
from tests.soak.conversation import Conversation, Ending
from tests.soak.watch import EngineWatch, Held, memory_mib
from tests.unit.event_loop import LIMIT_S, until
from tests.unit.llm_samples import write_tiny_model

FEW, MANY = 200, 10_000
AT_ONCE = 40
BLOCK_BYTES = 2 * 2 * 8 * 2 * 8 * 4  # keys and values, layers, tokens, heads, channels, float32
SMALL = {
    "batch_invariant": True,
    "kv_block_size": 8,
    "kv_budget": KvBudget(amount=100 * BLOCK_BYTES),
    "kv_dtype": KvDtype.FLOAT32,
    "max_running": 12,
    "queue_limit": 24,
    "step_token_budget": 48,
    "speculate": 3,
    "stream_limit": 48,
    "tile_timeout_s": 1.0,
}
GROWTH_MIB = 24.0
ERRORS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
PHASES = {"queued", "waiting for tiles", "in prefill", "decoding"}


class Soak:
    """Sends numbered requests, each of which can be sent again by its number."""

    def __init__(self, scene: Scene) -> None:
        self.endings: Counter[tuple[str, str, str | None]] = Counter()
        self._scene = scene
        self._room = asyncio.Condition()

    async def send(self, first: int, last: int) -> None:
        """Send requests, some at a time; then wait until the service has come to rest."""
        numbers = iter(range(first, last))
        async with asyncio.TaskGroup() as clients:
            for _ in range(AT_ONCE):
                clients.create_task(self._client(numbers))
        await until(lambda: self._scene.watch.is_idle and gauges() == (0, 0, 0))

    async def send_one_of_each(self) -> None:
        """One after the other, so that none is turned away for want of room."""
        for kind in WEIGHTS:
            check(await kind(self._scene, random.Random(kind.__name__)))

    async def _client(self, numbers) -> None:  # type: ignore[no-untyped-def]
        for number in numbers:
            chance = random.Random(number)
            (kind,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
            try:
                async with asyncio.timeout(LIMIT_S):
                    ending = await kind(self._scene, chance)
                check(ending)
            except BaseException as error:
                error.add_note(f"request {number}, {kind.__name__}")
                raise
            self.endings[kind.__name__, ending.code.name, ending.reason] += 1
            await self._pause(turned_away=ending.code is grpc.StatusCode.RESOURCE_EXHAUSTED)
        async with self._room:
            self._room.notify_all()

    async def _pause(self, turned_away: bool) -> None:
        """One who was turned away waits until another was not; else most would be nothing but refusals."""
        async with self._room:
            if turned_away and not self._scene.watch.is_idle:
                await self._room.wait()
            else:
                self._room.notify()


def check(ending: Ending) -> None:
    """A result or an error, never both, never neither."""
    assert ending.code in ERRORS, ending
    if ending.code is grpc.StatusCode.OK:
        assert ending.results == 1, ending
    elif ending.reason is not None:
        assert ending.results == 0, ending


async def known_answers(scene: Scene) -> list[list[int]]:
    """Answers that never change, with pictures and without."""
    asked = [opening(user("Hello")), opening(user("How many?"), seed=7, temperature=1.0, max_tokens=30)]
    asked.append(opening(user(visual("known"), "What is this?"), max_tokens=20))
    tiles = [[], [], [tile("known", 0), tile("known", 1)]]
    answers = []
    for one, some in zip(asked, tiles, strict=True):
        conversation = Conversation(scene.stub, one)
        admitted = await conversation.admitted()
        assert admitted is not None
        await conversation.send(*(some if admitted.needed else ()))
        assert (await conversation.rest()).code is grpc.StatusCode.OK
        answers.append(conversation.tokens[0])
    return answers


async def fill_threads() -> None:
    """Let the event loop's pool of threads grow as large as it ever can."""
    count = 4
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count))
    everybody = threading.Barrier(count)
    await asyncio.gather(*(asyncio.to_thread(everybody.wait, LIMIT_S) for _ in range(count)))


async def soak(
    folder: Path, monkeypatch: pytest.MonkeyPatch, requests: int, tell: Callable[..., None] = print
) -> None:
    watch = EngineWatch()
    watch.install(monkeypatch)
    async with llm_service(folder, **SMALL) as service:
        scene = Scene(service, watch)
        run = Soak(scene)
        answers = await known_answers(scene)
        await run.send(MANY, MANY + FEW)  # caches fill
        await fill_threads()
        before, sizes = Held.now(), []
        for start in range(0, requests, 1000):
            await run.send(start, min(start + 1000, requests))
            sizes.append(memory_mib())
            tell(f"{start + 1000}: {sizes[-1]:.0f} MiB, {Held.now()}")
        await run.send_one_of_each()
        await until(lambda: Held.now().is_within(before))
        assert await known_answers(scene) == answers
        await until(lambda: watch.is_idle)
    tell(*sorted(run.endings.items(), key=str), watch.endings, watch.interrupted, sep="\n")
    assert watch.faults == []
    assert watch.submitted == watch.ended
    assert sum(watch.endings.values()) == len(watch.submitted)
    # Few requests may all find a place or be turned away; among many, some are caught in the queue.
    assert set(watch.interrupted) | ({"queued"} if requests == FEW else set()) == PHASES
    assert {"SLOW_READER", "TILE_TIMEOUT", "finished"} <= set(watch.endings)
    if len(sizes) > 2:
        assert sizes[-1] - sizes[1] < GROWTH_MIB, sizes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_nothing_is_left_of_some_hundred_requests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(soak(folder, monkeypatch, FEW))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_left_of_ten_thousand_requests(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tell(*values: object, sep: str = " ") -> None:
        with capsys.disabled():
            print(*values, sep=sep)

    asyncio.run(soak(folder, monkeypatch, MANY, tell))
