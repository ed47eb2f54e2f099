"""Conversations in SQLite: a file in WAL mode for one gateway, or memory."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gateway.content import Message
from gateway.conversations import Conversation
from gateway.wire import message_from_proto, message_to_proto
from internvl.errors import ConfigError, Conflict, NotFound, Unavailable
from internvl.telemetry import get_logger
from internvl.v1 import chat_service_pb2

T = TypeVar("T")

_log = get_logger("conversations")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id      TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS turns (
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    version         INTEGER NOT NULL,
    messages        BLOB NOT NULL,
    PRIMARY KEY (conversation_id, version)
) STRICT, WITHOUT ROWID;
"""


class SqliteStore:
    """A `ConversationStore` over one connection, used by one thread.

    The messages of a turn are one serialised `Conversation` message, so the stored form is as versioned as
    the contract. Turn 0 holds the opening messages.
    """

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def create(self, messages: Sequence[Message]) -> Conversation:
        conversation_id = uuid.uuid4().hex
        now = _now()
        await self._run(lambda: self._create(conversation_id, messages, now))
        return Conversation(conversation_id, 0, tuple(messages), now, now)

    async def get(self, conversation_id: str) -> Conversation:
        return await self._run(lambda: self._get(conversation_id))

    async def append(self, conversation_id: str, version: int, messages: Sequence[Message]) -> int:
        await self._run(lambda: self._append(conversation_id, version, messages, _now()))
        return version + 1

    async def delete(self, conversation_id: str) -> None:
        await self._run(lambda: self._delete(conversation_id))

    def _create(self, conversation_id: str, messages: Sequence[Message], now: datetime.datetime) -> None:
        with self._connection as db:
            row = (conversation_id, 0, now.timestamp(), now.timestamp())
            db.execute("INSERT INTO conversations VALUES (?, ?, ?, ?)", row)
            db.execute("INSERT INTO turns VALUES (?, 0, ?)", (conversation_id, _encode(messages)))

    def _get(self, conversation_id: str) -> Conversation:
        with self._connection as db:
            db.execute("BEGIN")  # one snapshot for both reads
            version, created, updated = self._head(db, conversation_id)
            rows = db.execute(
                "SELECT messages FROM turns WHERE conversation_id = ? ORDER BY version", (conversation_id,)
            ).fetchall()
        messages = tuple(message for (blob,) in rows for message in _decode(blob))
        return Conversation(conversation_id, version, messages, _utc(created), _utc(updated))

    def _append(
        self, conversation_id: str, version: int, messages: Sequence[Message], now: datetime.datetime
    ) -> None:
        with self._connection as db:
            # The update takes the write lock and checks the version: two gateways cannot pass it together.
            taken = db.execute(
                "UPDATE conversations SET version = version + 1, updated = ? WHERE id = ? AND version = ?",
                (now.timestamp(), conversation_id, version),
            )
            if not taken.rowcount:
                current, *_ = self._head(db, conversation_id)
                raise Conflict(
                    "another turn of this conversation was stored meanwhile; fetch it and ask again",
                    metadata={"expected_version": version, "version": current},
                )
            row = (conversation_id, version + 1, _encode(messages))
            db.execute("INSERT INTO turns VALUES (?, ?, ?)", row)

    def _delete(self, conversation_id: str) -> None:
        with self._connection as db:
            if not db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,)).rowcount:
                raise _unknown()

    def _head(self, db: sqlite3.Connection, conversation_id: str) -> tuple[int, float, float]:
        row: tuple[int, float, float] | None = db.execute(
            "SELECT version, created, updated FROM conversations WHERE id = ?", (conversation_id,)
        ).fetchone()
        if row is None:
            raise _unknown()
        return row

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            _log.error("conversation store failed", problem=str(error))
            raise Unavailable("the conversation store cannot be used") from error


@asynccontextmanager
async def open_sqlite_store(path: Path | None) -> AsyncIterator[SqliteStore]:
    """Open the store at `path`, created if it is missing; None keeps conversations in memory.

    Raises:
        ConfigError: the file cannot be opened or is no database.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite") as thread:
        try:
            connection = await loop.run_in_executor(thread, _connect, path)
        except sqlite3.Error as error:
            raise ConfigError(f"--store: cannot open {path} ({error})") from None
        try:
            yield SqliteStore(connection, thread)
        finally:
            await loop.run_in_executor(thread, connection.close)


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(path if path is not None else ":memory:", timeout=10.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript(_SCHEMA)
    return connection


def _encode(messages: Sequence[Message]) -> bytes:
    turn = chat_service_pb2.Conversation(messages=map(message_to_proto, messages))
    return turn.SerializeToString()


def _decode(blob: bytes) -> list[Message]:
    turn = chat_service_pb2.Conversation.FromString(blob)
    return [message_from_proto(message) for message in turn.messages]


def _unknown() -> NotFound:
    return NotFound("there is no conversation of this id; it may have been deleted")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _utc(timestamp: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
