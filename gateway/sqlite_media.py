"""The index of media in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from gateway.media_index import Added, MediaBounds, no_room, unknown_media
from gateway.sqlite_store import Database

_PINNED = "EXISTS (SELECT 1 FROM media_shown AS shown WHERE shown.media_id = media.media_id {scope})"
_PINNED_BY_ANY = _PINNED.format(scope="")
_PINNED_BY_TENANT = _PINNED.format(scope="AND shown.tenant = media.tenant")


class SqliteMedia:
    """A `MediaIndex`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, tenant: str, media_id: str, size: int, place: str, bounds: MediaBounds
    ) -> Added | None:
        def work(db: sqlite3.Connection) -> Added | None:
            known = db.execute("SELECT place FROM files WHERE media_id = ?", (media_id,)).fetchone()
            if known is None and not place:
                return None
            if known is None:
                db.execute("INSERT INTO files VALUES (?, ?, ?)", (media_id, size, place))
            db.execute("INSERT OR REPLACE INTO media VALUES (?, ?, ?)", (tenant, media_id, time.time()))
            _make_room_for_tenant(db, tenant, media_id, bounds.tenant_quota_bytes)
            _make_room(db, media_id, bounds.quota_bytes)
            return Added(place if known is None else known[0], _unseen(db))

        return await self._database.write(work)

    async def touch(self, tenant: str, media_id: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            used = (time.time(), tenant, media_id)
            found = db.execute("UPDATE media SET used = ? WHERE tenant = ? AND media_id = ?", used)
            return bool(found.rowcount)

        return await self._database.write(work)

    async def place(self, media_id: str) -> str:
        def work(db: sqlite3.Connection) -> str:
            row = db.execute("SELECT place FROM files WHERE media_id = ?", (media_id,)).fetchone()
            if row is None:
                raise unknown_media()
            db.execute("UPDATE media SET used = ? WHERE media_id = ?", (time.time(), media_id))
            return str(row[0])

        return await self._database.write(work)

    async def forget(self, tenant: str, media_id: str) -> tuple[str, ...]:
        def work(db: sqlite3.Connection) -> tuple[str, ...]:
            row = (tenant, media_id)
            db.execute(
                f"DELETE FROM media WHERE tenant = ? AND media_id = ? AND NOT {_PINNED_BY_TENANT}", row
            )
            return _unseen(db)

        return await self._database.write(work)

    async def lost(self, media_id: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM media WHERE media_id = ?", (media_id,))
            _unseen(db)

        await self._database.write(work)

    async def sweep(self, time_to_live_s: float) -> tuple[str, ...]:
        def work(db: sqlite3.Connection) -> tuple[str, ...]:
            oldest = (time.time() - time_to_live_s,)
            db.execute(f"DELETE FROM media WHERE used <= ? AND NOT {_PINNED_BY_TENANT}", oldest)
            return _unseen(db)

        return await self._database.write(work)

    async def used_bytes(self) -> int:
        return await self._database.read(_total)


def show_media(db: sqlite3.Connection, tenant: str, conversation_id: str, media_ids: Iterable[str]) -> None:
    """Pin what a turn shows, in its own transaction."""
    rows = [(tenant, media_id, conversation_id) for media_id in media_ids]
    db.executemany("INSERT OR IGNORE INTO media_shown VALUES (?, ?, ?)", rows)


def _make_room_for_tenant(db: sqlite3.Connection, tenant: str, newest: str, quota: int | None) -> None:
    if quota is None:
        return
    used = "SELECT coalesce(sum(size), 0) FROM media JOIN files USING (media_id) WHERE tenant = ?"
    while db.execute(used, (tenant,)).fetchone()[0] > quota:
        oldest = db.execute(
            f"SELECT media_id FROM media WHERE tenant = ? AND media_id != ? AND NOT {_PINNED_BY_TENANT} "
            "ORDER BY used LIMIT 1",
            (tenant, newest),
        ).fetchone()
        if oldest is None:
            raise no_room(quota, tenant=True)
        db.execute("DELETE FROM media WHERE tenant = ? AND media_id = ?", (tenant, *oldest))


def _make_room(db: sqlite3.Connection, newest: str, quota: int) -> None:
    excess = _total(db) - quota
    while excess > 0:
        oldest = db.execute(
            "SELECT media.media_id, max(size) FROM media JOIN files USING (media_id) "
            f"WHERE media.media_id != ? AND NOT {_PINNED_BY_ANY} "
            "GROUP BY media.media_id ORDER BY max(used) LIMIT 1",
            (newest,),
        ).fetchone()
        if oldest is None:
            raise no_room(quota, tenant=False)
        media_id, size = oldest
        db.execute("DELETE FROM media WHERE media_id = ?", (media_id,))
        excess -= size


def _total(db: sqlite3.Connection) -> int:
    """Bytes of all files that somebody sees."""
    seen = "SELECT coalesce(sum(size), 0) FROM files WHERE media_id IN (SELECT media_id FROM media)"
    return int(db.execute(seen).fetchone()[0])


def _unseen(db: sqlite3.Connection) -> tuple[str, ...]:
    """Take files out that nobody sees, and return their places."""
    unseen = db.execute(
        "DELETE FROM files WHERE media_id NOT IN (SELECT media_id FROM media) RETURNING place"
    ).fetchall()
    return tuple(place for (place,) in unseen)
