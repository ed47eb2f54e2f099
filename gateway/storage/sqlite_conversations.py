"""Conversations in SQLite."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Sequence

from gateway.content import Message
from gateway.storage.claims import Claim
from gateway.storage.conversations import (
    Conversation,
    Head,
    Page,
    StoredTurn,
    fork_of,
    new_conversation,
    other_version,
    page_of,
    read_cursor,
    too_many_conversations,
    unknown_conversation,
    utc_now,
)
from gateway.storage.sqlite_claims import answer_claim
from gateway.storage.sqlite_media import show_media
from gateway.storage.sqlite_store import Database
from gateway.storage.stored_form import decode_opening, decode_turn, encode_opening, encode_turn

_HEAD = "id, version, title, created, updated, time_to_live_s"
_ALIVE = "(expires IS NULL OR expires > ?)"

_HeadRow = tuple[str, int, str, float, float, float | None]


class SqliteConversations:
    """A `ConversationStore`."""

    def __init__(self, database: Database, most: int | None = None) -> None:
        """`most` conversations a tenant; None for any number."""
        self._database = database
        self._most = most

    async def create(
        self,
        tenant: str,
        opening: Sequence[Message] = (),
        *,
        title: str = "",
        time_to_live_s: float | None = None,
    ) -> Conversation:
        conversation = new_conversation(opening, title, time_to_live_s)
        await self._database.write(lambda db: _insert(db, tenant, conversation, self._most))
        return conversation

    async def get(self, tenant: str, conversation_id: str) -> Conversation:
        return await self._database.read(lambda db: _get(db, tenant, conversation_id))

    async def list(self, tenant: str, limit: int, token: str = "") -> Page:
        def work(db: sqlite3.Connection) -> list[_HeadRow]:
            updated, last = read_cursor(token)
            return db.execute(
                f"SELECT {_HEAD} FROM conversations WHERE tenant = ? AND {_ALIVE} "
                "AND (updated, id) < (?, ?) ORDER BY updated DESC, id DESC LIMIT ?",
                (tenant, time.time(), updated, last, limit + 1),
            ).fetchall()

        return page_of([_head(row) for row in await self._database.read(work)], limit)

    async def update(
        self,
        tenant: str,
        conversation_id: str,
        *,
        title: str | None = None,
        time_to_live_s: float | None = None,
    ) -> Head:
        def work(db: sqlite3.Connection) -> Head:
            head = _head(_find(db, tenant, conversation_id))
            kept_s = head.time_to_live_s if time_to_live_s is None else time_to_live_s
            changed = Head(
                conversation_id,
                head.version,
                head.title if title is None else title,
                head.created,
                utc_now(),
                kept_s,
            )
            db.execute(
                "UPDATE conversations SET title = ?, updated = ?, time_to_live_s = ?, expires = ? "
                "WHERE id = ?",
                (changed.title, changed.updated.timestamp(), kept_s, _expires(changed), conversation_id),
            )
            return changed

        return await self._database.write(work)

    async def fork(
        self, tenant: str, conversation_id: str, turns: int | None = None, title: str | None = None
    ) -> Conversation:
        def work(db: sqlite3.Connection) -> Conversation:
            fork = fork_of(_get(db, tenant, conversation_id), turns, title)
            _insert(db, tenant, fork, self._most)
            return fork

        return await self._database.write(work)

    async def append(
        self,
        tenant: str,
        conversation_id: str,
        version: int,
        turn: StoredTurn,
        claim: Claim | None = None,
        answer: bytes = b"",
    ) -> int:
        def work(db: sqlite3.Connection) -> int:
            head = _head(_find(db, tenant, conversation_id))
            if head.version != version:
                raise other_version(version, head.version)
            if claim is not None:
                answer_claim(db, claim, answer)
            changed = Head(
                conversation_id, version + 1, head.title, head.created, utc_now(), head.time_to_live_s
            )
            db.execute(
                "UPDATE conversations SET version = ?, updated = ?, expires = ? WHERE id = ?",
                (changed.version, changed.updated.timestamp(), _expires(changed), conversation_id),
            )
            _insert_turn(db, tenant, conversation_id, version + 1, turn)
            return version + 1

        return await self._database.write(work)

    async def delete(self, tenant: str, conversation_id: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            _find(db, tenant, conversation_id)
            _drop(db, conversation_id)

        await self._database.write(work)

    async def sweep(self) -> int:
        return await self._database.write(_sweep)


def _get(db: sqlite3.Connection, tenant: str, conversation_id: str) -> Conversation:
    head = _head(_find(db, tenant, conversation_id))
    (opening,) = db.execute("SELECT opening FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
    turns = db.execute(
        "SELECT turn FROM turns WHERE conversation_id = ? ORDER BY version", (conversation_id,)
    ).fetchall()
    return Conversation(
        head.conversation_id,
        head.version,
        head.title,
        head.created,
        head.updated,
        head.time_to_live_s,
        decode_opening(opening),
        tuple(decode_turn(turn) for (turn,) in turns),
    )


def _find(db: sqlite3.Connection, tenant: str, conversation_id: str) -> _HeadRow:
    row: _HeadRow | None = db.execute(
        f"SELECT {_HEAD} FROM conversations WHERE id = ? AND tenant = ? AND {_ALIVE}",
        (conversation_id, tenant, time.time()),
    ).fetchone()
    if row is None:
        raise unknown_conversation()
    return row


def _sweep(db: sqlite3.Connection) -> int:
    now = time.time()
    gone = db.execute("SELECT id FROM conversations WHERE expires <= ?", (now,)).fetchall()
    for (conversation_id,) in gone:
        _drop(db, conversation_id)
    db.execute("DELETE FROM claims WHERE expires <= ?", (now,))
    return len(gone)


def _insert(db: sqlite3.Connection, tenant: str, new: Conversation, most: int | None) -> None:
    if most is not None and _has(db, tenant, most):
        _sweep(db)
        if _has(db, tenant, most):
            raise too_many_conversations(most)
    times = (new.created.timestamp(), new.updated.timestamp(), new.time_to_live_s, _expires(new))
    row = (new.conversation_id, tenant, new.version, new.title, encode_opening(new.opening), *times)
    db.execute("INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    for version, turn in enumerate(new.turns, 1):
        _insert_turn(db, tenant, new.conversation_id, version, turn)


def _has(db: sqlite3.Connection, tenant: str, count: int) -> bool:
    (found,) = db.execute("SELECT count(*) FROM conversations WHERE tenant = ?", (tenant,)).fetchone()
    return bool(found >= count)


def _insert_turn(
    db: sqlite3.Connection, tenant: str, conversation_id: str, version: int, turn: StoredTurn
) -> None:
    db.execute("INSERT INTO turns VALUES (?, ?, ?)", (conversation_id, version, encode_turn(turn)))
    show_media(db, tenant, conversation_id, turn.media_ids)


def _drop(db: sqlite3.Connection, conversation_id: str) -> None:
    db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))
    db.execute("DELETE FROM claims WHERE conversation_id = ?", (conversation_id,))


def _head(row: _HeadRow) -> Head:
    conversation_id, version, title, created, updated, time_to_live_s = row
    return Head(conversation_id, version, title, _utc(created), _utc(updated), time_to_live_s)


def _expires(head: Head) -> float | None:
    return None if head.expires is None else head.expires.timestamp()


def _utc(timestamp: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
