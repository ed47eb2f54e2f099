"""The index of media in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

from gateway.storage.media_index import Added, MediaBounds, no_room, unknown_media
from gateway.storage.sqlite_store import Database

_PINNED_BY_ANY = "EXISTS (SELECT 1 FROM media_shown WHERE media_id = files.media_id)"
_PINNED_BY_TENANT = (
    "EXISTS (SELECT 1 FROM media_shown AS shown WHERE shown.media_id = media.media_id "
    "AND shown.tenant = media.tenant)"
)
_SEEN = "INSERT INTO media VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = excluded.used"


class SqliteMedia:
    """A `MediaIndex`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, tenant: str, media_id: str, size: int, place: str, bounds: MediaBounds
    ) -> Added | None:
        def work(db: sqlite3.Connection) -> Added | None:
            now = time.time()
            known = db.execute("SELECT size, place FROM files WHERE media_id = ?", (media_id,)).fetchone()
            if known is None and not place:
                return None
            if known is None:
                db.execute("INSERT INTO files VALUES (?, ?, ?, ?)", (media_id, size, place, now))
            kept_size, kept_place = known or (size, place)
            db.execute(_SEEN, (tenant, media_id, kept_size, now))
            db.execute("UPDATE files SET used = ? WHERE media_id = ?", (now, media_id))
            _make_room_for_tenant(db, tenant, media_id, bounds.tenant_quota_bytes)
            _make_room(db, media_id, bounds.quota_bytes)
            return Added(kept_place, _unseen(db))

        return await self._database.write(work)

    async def touch(self, tenant: str, media_id: str) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            now = time.time()
            row = (now, tenant, media_id)
            found = db.execute("UPDATE media SET used = ? WHERE tenant = ? AND media_id = ?", row).rowcount
            if found:
                db.execute("UPDATE files SET used = ? WHERE media_id = ?", (now, media_id))
            return bool(found)

        return await self._database.write(work)

    async def place(self, media_id: str) -> str:
        def work(db: sqlite3.Connection) -> str:
            row = db.execute("SELECT place FROM files WHERE media_id = ?", (media_id,)).fetchone()
            if row is None:
                raise unknown_media()
            for table in ("media", "files"):
                db.execute(f"UPDATE {table} SET used = ? WHERE media_id = ?", (time.time(), media_id))
            return str(row[0])

        return await self._database.write(work)

    async def find(self, media_id: str) -> str | None:
        def work(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT place FROM files WHERE media_id = ?", (media_id,)).fetchone()
            return None if row is None else str(row[0])

        return await self._database.read(work)

    async def forget(self, tenant: str, media_id: str) -> tuple[str, ...]:
        def work(db: sqlite3.Connection) -> tuple[str, ...]:
            row = (tenant, media_id)
            db.execute(
                f"DELETE FROM media WHERE tenant = ? AND media_id = ? AND NOT {_PINNED_BY_TENANT}", row
            )
            return _unseen(db)

        return await self._database.write(work)

    async def lost(self, media_id: str, place: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            known = "SELECT media_id FROM files WHERE media_id = ? AND place = ?"
            db.execute(f"DELETE FROM media WHERE media_id = ({known})", (media_id, place))
            _unseen(db)

        await self._database.write(work)

    async def sweep(self, time_to_live_s: float) -> tuple[str, ...]:
        def work(db: sqlite3.Connection) -> tuple[str, ...]:
            oldest = (time.time() - time_to_live_s,)
            db.execute(f"DELETE FROM media WHERE used <= ? AND NOT {_PINNED_BY_TENANT}", oldest)
            return _unseen(db)

        return await self._database.write(work)

    async def used_bytes(self) -> int:
        return await self._database.read(lambda db: _bytes(db, "all"))


def show_media(db: sqlite3.Connection, tenant: str, conversation_id: str, media_ids: Iterable[str]) -> None:
    """Pin what a turn shows, in its own transaction."""
    rows = [(tenant, media_id, conversation_id) for media_id in media_ids]
    db.executemany("INSERT OR IGNORE INTO media_shown VALUES (?, ?, ?)", rows)


def _make_room_for_tenant(db: sqlite3.Connection, tenant: str, newest: str, quota: int | None) -> None:
    while quota is not None and _bytes(db, f"by {tenant}") > quota:
        oldest = db.execute(
            f"SELECT media_id FROM media WHERE tenant = ? AND media_id != ? AND NOT {_PINNED_BY_TENANT} "
            "ORDER BY used LIMIT 1",
            (tenant, newest),
        ).fetchone()
        if oldest is None:
            raise no_room(quota, tenant=True)
        db.execute("DELETE FROM media WHERE tenant = ? AND media_id = ?", (tenant, *oldest))


def _make_room(db: sqlite3.Connection, newest: str, quota: int) -> None:
    while _bytes(db, "all") > quota:
        oldest = db.execute(
            f"SELECT media_id FROM files WHERE media_id != ? AND NOT {_PINNED_BY_ANY} ORDER BY used LIMIT 1",
            (newest,),
        ).fetchone()
        if oldest is None:
            raise no_room(quota, tenant=False)
        db.execute("DELETE FROM media WHERE media_id = ?", oldest)


def _bytes(db: sqlite3.Connection, whose: str) -> int:
    row = db.execute("SELECT bytes FROM media_bytes WHERE whose = ?", (whose,)).fetchone()
    return 0 if row is None else int(row[0])


def _unseen(db: sqlite3.Connection) -> tuple[str, ...]:
    """Places of the files that this transaction took from everybody; triggers have noted them."""
    return tuple(place for (place,) in db.execute("DELETE FROM unseen_files RETURNING place").fetchall())
