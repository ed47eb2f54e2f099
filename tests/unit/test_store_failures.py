"""Stores that cannot be opened, or that fail while they are used."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.storage.claims import Claim, Running
from gateway.storage.store import open_store
from internvl.errors import (
    ConfigError,
    Unavailable,
)
from tests.unit.event_loop import bounded
from tests.unit.redis_server import RedisServer
from tests.unit.store_samples import KEY, MORE, TURN, filled


def test_file_is_read_again_by_the_next_process(tmp_path: Path) -> None:
    where = str(tmp_path / "conversations.db")

    async def work() -> None:
        async with open_store(where) as store:
            conversation_id = await filled(store.conversations)
        async with open_store(where) as store:
            assert (await store.conversations.get("", conversation_id)).turns == (TURN, MORE)

    asyncio.run(work())


def test_store_that_fails_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"

    async def work() -> None:
        async with open_store(str(path)) as store:
            created = await store.conversations.create("")
            with closing(sqlite3.connect(path)) as intruder:
                intruder.execute("DROP TABLE turns")
            with pytest.raises(Unavailable, match="the conversation store cannot be used"):
                await store.conversations.append("", created.conversation_id, 0, TURN)
            assert (await store.conversations.list("", 10)).heads[0].version == 0

    asyncio.run(work())


def test_file_that_is_no_database_is_refused_by_flag(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is no database, but it is long enough to be looked at as one" * 20)

    async def work() -> None:
        async with open_store(str(path)):
            pass

    with pytest.raises(ConfigError, match="--store"):
        asyncio.run(work())


def test_file_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE conversations (id TEXT)")

    async def work() -> None:
        async with open_store(str(path)):
            pass

    with pytest.raises(ConfigError, match="another version"):
        asyncio.run(work())
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("SELECT name FROM sqlite_master").fetchall() == [("conversations",)]


def test_redis_that_is_down_is_unavailable_at_once_and_good_again_when_it_is_back(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    @bounded
    async def work() -> None:
        async with open_store(server.url) as store:
            conversation_id = await filled(store.conversations)
            claim = await store.claims.claim(KEY, "request", "turn-1")
            assert isinstance(claim, Claim)
            server.kill()
            for call in (
                store.conversations.get("", conversation_id),
                store.conversations.append("", conversation_id, 2, TURN),
                store.claims.claim(KEY, "request", "turn-2"),
            ):
                with pytest.raises(Unavailable, match="the conversation store cannot be used"):
                    await asyncio.wait_for(call, 10)
            server.start()
            assert (await store.conversations.get("", conversation_id)).turns == (TURN, MORE)
            assert await store.conversations.append("", conversation_id, 2, TURN) == 3
            assert await store.claims.claim(KEY, "request", "turn-2") == Running("turn-1")

    with server:
        work()


def test_turn_that_redis_is_told_twice_is_stored_once(redis: RedisServer) -> None:
    """A connection may break behind the write: the client cannot know, and sends it again."""

    @bounded
    async def work() -> None:
        async with open_store(redis.url) as store:
            created = await store.conversations.create("")
            for _ in range(2):
                assert await store.conversations.append("", created.conversation_id, 0, TURN) == 1
            assert (await store.conversations.get("", created.conversation_id)).turns == (TURN,)

    work()


def test_url_that_names_no_server_is_refused_by_flag() -> None:
    async def work() -> None:
        async with open_store("redis://host:port/0"):
            pass

    with pytest.raises(ConfigError, match="--store"):
        asyncio.run(work())
