"""What every conversation store must do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import pytest

from gateway.content import ImageOptions, Media, Message, Role, Text, VideoOptions
from gateway.conversations import ConversationStore
from gateway.sqlite_store import open_sqlite_store
from internvl.errors import ConfigError, Conflict, NotFound, Unavailable

Open = Callable[[], AbstractAsyncContextManager[ConversationStore]]

SYSTEM = Message(Role.SYSTEM, (Text("be brief"),))
TURN = (
    Message(
        Role.USER,
        (
            Media("a" * 64, ImageOptions(max_tiles=6, thumbnail=False)),
            Media("b" * 64, VideoOptions(frames=4, start_s=0.0)),
            Text("what is it?"),
        ),
    ),
    Message(Role.ASSISTANT, (Text("a red circle"),)),
)
MORE = (Message(Role.USER, (Text("sure?"),)), Message(Role.ASSISTANT, (Text(""),)))


@pytest.fixture(params=["memory", "file"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    path = None if request.param == "memory" else tmp_path / "conversations.db"
    return lambda: open_sqlite_store(path)


def run(open_store: Open, work: Callable[[ConversationStore], Awaitable[None]]) -> None:
    async def within() -> None:
        async with open_store() as store:
            await work(store)

    asyncio.run(asyncio.wait_for(within(), 30))


def test_turns_come_back_as_they_were_stored(open_store: Open) -> None:
    async def work(store: ConversationStore) -> None:
        created = await store.create([SYSTEM])
        assert await store.append(created.conversation_id, 0, TURN) == 1
        assert await store.append(created.conversation_id, 1, MORE) == 2
        conversation = await store.get(created.conversation_id)
        assert conversation.messages == (SYSTEM, *TURN, *MORE)
        assert conversation.version == 2
        assert conversation.created == created.created
        assert conversation.updated >= created.updated

    run(open_store, work)


def test_new_conversation_is_empty_and_has_an_id_of_its_own(open_store: Open) -> None:
    async def work(store: ConversationStore) -> None:
        first, second = await store.create([]), await store.create([])
        assert first.conversation_id != second.conversation_id
        assert await store.get(first.conversation_id) == first
        assert (first.version, first.messages) == (0, ())

    run(open_store, work)


@pytest.mark.parametrize("version", [0, 2])
def test_other_version_conflicts_and_changes_nothing(open_store: Open, version: int) -> None:
    async def work(store: ConversationStore) -> None:
        created = await store.create([])
        await store.append(created.conversation_id, 0, TURN)
        with pytest.raises(Conflict) as caught:
            await store.append(created.conversation_id, version, MORE)
        assert caught.value.metadata["version"] == "1"
        assert (await store.get(created.conversation_id)).messages == TURN

    run(open_store, work)


def test_one_of_many_racing_turns_is_stored(open_store: Open) -> None:
    async def work(store: ConversationStore) -> None:
        created = await store.create([])
        racing = [store.append(created.conversation_id, 0, TURN) for _ in range(20)]
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        assert outcomes.count(1) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19

    run(open_store, work)


def test_unknown_conversation_is_not_found(open_store: Open) -> None:
    async def work(store: ConversationStore) -> None:
        for call in (store.get("none"), store.append("none", 0, TURN), store.delete("none")):
            with pytest.raises(NotFound):
                await call

    run(open_store, work)


def test_deleted_conversation_is_gone_and_others_stay(open_store: Open) -> None:
    async def work(store: ConversationStore) -> None:
        kept, dropped = await store.create([]), await store.create([SYSTEM])
        await store.append(kept.conversation_id, 0, TURN)
        await store.append(dropped.conversation_id, 0, TURN)
        await store.delete(dropped.conversation_id)
        with pytest.raises(NotFound):
            await store.get(dropped.conversation_id)
        assert (await store.get(kept.conversation_id)).messages == TURN

    run(open_store, work)


def test_file_is_read_again_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"

    async def work() -> None:
        async with open_sqlite_store(path) as store:
            created = await store.create([])
            await store.append(created.conversation_id, 0, TURN)
        async with open_sqlite_store(path) as store:
            assert (await store.get(created.conversation_id)).messages == TURN

    asyncio.run(work())


def test_two_gateways_on_one_file_conflict_like_one(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"

    async def work() -> None:
        async with open_sqlite_store(path) as one, open_sqlite_store(path) as two:
            created = await one.create([])
            racing = [store.append(created.conversation_id, 0, TURN) for store in (one, two) * 5]
            outcomes = await asyncio.gather(*racing, return_exceptions=True)
            assert outcomes.count(1) == 1
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9

    asyncio.run(work())


def test_store_that_fails_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"

    async def work() -> None:
        async with open_sqlite_store(path) as store:
            created = await store.create([])
            with closing(sqlite3.connect(path)) as intruder:
                intruder.execute("DROP TABLE turns")
            with pytest.raises(Unavailable, match="the conversation store cannot be used"):
                await store.append(created.conversation_id, 0, TURN)

    asyncio.run(work())


def test_file_that_is_no_database_is_refused_by_flag(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is no database, but it is long enough to be looked at as one" * 20)

    async def work() -> None:
        async with open_sqlite_store(path):
            pass

    with pytest.raises(ConfigError, match="--store"):
        asyncio.run(work())
