"""Long turns and many questions through the client: lost connections, background turns, batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from internvl_client import (
    AsyncClient,
    BadMedia,
    BatchResult,
    Cancelled,
    Client,
    NotFound,
    Question,
    TimedOut,
    Unavailable,
)
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded, gateway_stack, until

TEXT = "one two three four five"


class Proxy:
    """Passes bytes on to a server until it is told to hang up."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, far_writer]
        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))

    def hang_up(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        proxy.hang_up()
        server.close()


@bounded
async def test_a_resumable_answer_survives_lost_connections() -> None:
    async with (
        gateway_stack() as stack,
        proxied(stack.address) as (proxy, address),
        AsyncClient(address) as client,
    ):
        stack.llm.hold_at = 2
        stream = client.chat(TEXT, resumable=True)
        pieces = []
        async for piece in stream:
            pieces.append(piece)
            if len(pieces) == 2:
                proxy.hang_up()
                stack.llm.released.set()
        assert "".join(pieces) == stream.text == TEXT
        assert (await stream.result()).token_ids == (0, 1, 2, 3, 4)
        assert proxy.connections > 1
        assert len(stack.llm.opened) == 1


@bounded
async def test_the_synchronous_client_reads_on_too() -> None:
    async with gateway_stack() as stack, proxied(stack.address) as (proxy, address):
        stack.llm.hold_at = 2
        loop = asyncio.get_running_loop()

        def break_it() -> None:
            proxy.hang_up()
            stack.llm.released.set()

        def ask() -> list[str]:
            with Client(address) as client:
                pieces = []
                for piece in client.chat(TEXT, resumable=True):
                    pieces.append(piece)
                    if len(pieces) == 2:
                        loop.call_soon_threadsafe(break_it)
                return pieces

        assert "".join(await asyncio.to_thread(ask)) == TEXT
        assert len(stack.llm.opened) == 1


@bounded
async def test_an_answer_that_is_not_resumable_ends_with_its_connection() -> None:
    async with (
        gateway_stack() as stack,
        proxied(stack.address) as (proxy, address),
        AsyncClient(address) as client,
    ):
        stack.llm.hold_at = 2
        stream = client.chat(TEXT)
        pieces = aiter(stream)
        for _ in range(2):
            await anext(pieces)
        proxy.hang_up()
        with pytest.raises(Unavailable):
            await anext(pieces)
        assert stream.text == "one two"


@bounded
async def test_a_turn_in_the_background_is_polled_attached_and_cancelled() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        stack.llm.hold_at = 2
        turn = await client.start_turn(TEXT, images=[picture(3)])
        async with asyncio.timeout(10):
            while (status := await turn.poll()).text != "one two":
                assert status.state == "running"
        assert [(each.tiles_done, each.tiles_total) for each in status.progress] == [(3, 3)]
        stack.llm.released.set()
        assert (await client.turn(turn.turn_id).attach().result()).text == TEXT
        status = await turn.poll()
        assert status.answer is not None
        assert (status.state, status.answer.text, status.error) == ("done", TEXT, None)
        stack.llm.released.clear()
        other = await client.start_turn(TEXT)
        await until(lambda: stack.llm.active)
        await other.cancel()
        assert (await other.poll()).state == "cancelled"
        with pytest.raises(Cancelled):
            await other.attach().result()
        with pytest.raises(NotFound):
            await client.turn("nobody").poll()


@bounded
async def test_the_synchronous_client_has_the_same_turns() -> None:
    async with gateway_stack() as stack:

        def work() -> None:
            with Client(stack.address) as client:
                turn = client.start_turn("no picture", images=[b"broken"])
                with pytest.raises(BadMedia):
                    turn.attach().result()
                status = turn.poll()
                assert status.state == "failed"
                assert isinstance(status.error, BadMedia)
                assert status.error.field == "messages[0].parts[0].image"
                assert client.turn(client.start_turn(TEXT).turn_id).attach().result().text == TEXT

        await asyncio.to_thread(work)


@bounded
async def test_a_batch_tells_results_and_progress() -> None:
    questions: list[Any] = [
        *("first", "second"),
        Question("third", {"images": [picture(2)]}),
        Question("bad", {"images": [b"broken"]}),
    ]
    async with gateway_stack() as stack:

        def work() -> tuple[dict[int, Any], list[tuple[int, int]]]:
            seen: list[tuple[int, int]] = []
            with Client(stack.address) as client:
                results = client.batch(
                    questions, max_concurrent=2, on_progress=lambda *done: seen.append(done)
                )
                return {each.index: each for each in results}, seen

        results, seen = await asyncio.to_thread(work)
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert [results[number].answer.text for number in range(3)] == ["first", "second", "third"]
        assert isinstance(results[3].error, BadMedia)
        async with AsyncClient(stack.address) as client:
            again = {each.index: each async for each in client.batch(questions)}
        assert {index: each.answer and each.answer.text for index, each in again.items()} == {
            index: each.answer and each.answer.text for index, each in results.items()
        }


@pytest.mark.parametrize("kind", ["sync", "async"])
@bounded
async def test_a_batch_of_many_photos_fits_its_message(kind: str) -> None:
    photos = [picture(1, str(number) * 1_900_000) for number in range(5)]
    questions = [Question("look", {"images": [photo]}) for photo in photos]
    async with gateway_stack() as stack:
        if kind == "async":
            async with AsyncClient(stack.address) as client:
                results = [each async for each in client.batch(questions)]
        else:
            with Client(stack.address) as blocking:
                results = await asyncio.to_thread(lambda: list(blocking.batch(questions)))
        assert [each.error for each in results] == [None] * 5
        assert sorted(file for file, _ in stack.vision.encoded) == sorted(photos)


@pytest.mark.parametrize("kind", ["sync", "async"])
@bounded
async def test_a_batch_may_take_longer_than_one_call(kind: str) -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address, timeout=0.2) as client:
        stack.llm.gate.clear()
        if kind == "async":
            running = asyncio.create_task(_answers(client.batch(["patience"])))
        else:
            running = asyncio.create_task(asyncio.to_thread(_sync_answers, stack.address, ["patience"]))
        await until(lambda: stack.llm.active)
        with pytest.raises(TimedOut):  # asked later, with the limit that the batch would have had
            await client.chat("late").result()
        stack.llm.gate.set()
        assert await running == ["patience"]


async def _answers(results: AsyncIterator[BatchResult]) -> list[str | None]:
    return [each.answer and each.answer.text async for each in results]


def _sync_answers(address: str, questions: list[str]) -> list[str | None]:
    with Client(address, timeout=0.2) as client:
        return [each.answer and each.answer.text for each in client.batch(questions)]
