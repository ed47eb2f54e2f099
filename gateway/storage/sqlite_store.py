"""The store in SQLite: a file in WAL mode, which gateways of one machine may share, or memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from internvl.errors import ConfigError, Unavailable
from internvl.telemetry import get_logger

T = TypeVar("T")

_log = get_logger("store")

# Counts changes of the schema below; a file of another number is refused.
_SCHEMA_NUMBER = 3
# Times are seconds since the epoch.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    version        INTEGER NOT NULL,
    title          TEXT NOT NULL,
    opening        BLOB NOT NULL,
    created        REAL NOT NULL,
    updated        REAL NOT NULL,
    time_to_live_s REAL,
    expires        REAL
) STRICT;
CREATE INDEX IF NOT EXISTS conversations_by_change ON conversations (tenant, updated DESC, id DESC);
CREATE INDEX IF NOT EXISTS conversations_by_expiry ON conversations (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS turns (
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    version         INTEGER NOT NULL,
    turn            BLOB NOT NULL,
    PRIMARY KEY (conversation_id, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    tenant          TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    key             TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    turn_id         TEXT NOT NULL,
    answer          BLOB,
    expires         REAL NOT NULL,
    PRIMARY KEY (tenant, conversation_id, key)
) STRICT;
CREATE INDEX IF NOT EXISTS claims_by_expiry ON claims (expires);
CREATE TABLE IF NOT EXISTS files (
    media_id TEXT PRIMARY KEY,
    size     INTEGER NOT NULL,
    place    TEXT NOT NULL,
    used     REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS files_by_use ON files (used);
CREATE TABLE IF NOT EXISTS media (
    tenant   TEXT NOT NULL,
    media_id TEXT NOT NULL,
    size     INTEGER NOT NULL,
    used     REAL NOT NULL,
    PRIMARY KEY (tenant, media_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS media_by_id ON media (media_id);
CREATE INDEX IF NOT EXISTS media_by_use ON media (used);
CREATE INDEX IF NOT EXISTS media_of_tenant_by_use ON media (tenant, used);
-- Bytes of `all` files, and of those that `by TENANT` are seen; places of files that nobody sees any longer.
CREATE TABLE IF NOT EXISTS media_bytes (whose TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS unseen_files (place TEXT NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS file_came AFTER INSERT ON files BEGIN
    INSERT INTO media_bytes VALUES ('all', NEW.size) ON CONFLICT DO UPDATE SET bytes = bytes + NEW.size;
END;
CREATE TRIGGER IF NOT EXISTS file_went AFTER DELETE ON files BEGIN
    UPDATE media_bytes SET bytes = bytes - OLD.size WHERE whose = 'all';
    INSERT INTO unseen_files VALUES (OLD.place);
END;
CREATE TRIGGER IF NOT EXISTS media_seen AFTER INSERT ON media BEGIN
    INSERT INTO media_bytes VALUES ('by ' || NEW.tenant, NEW.size)
        ON CONFLICT DO UPDATE SET bytes = bytes + NEW.size;
END;
CREATE TRIGGER IF NOT EXISTS media_unseen AFTER DELETE ON media BEGIN
    UPDATE media_bytes SET bytes = bytes - OLD.size WHERE whose = 'by ' || OLD.tenant;
    DELETE FROM files WHERE media_id = OLD.media_id
        AND NOT EXISTS (SELECT 1 FROM media WHERE media_id = OLD.media_id);
END;
CREATE TABLE IF NOT EXISTS media_shown (
    tenant          TEXT NOT NULL,
    media_id        TEXT NOT NULL,
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    PRIMARY KEY (media_id, tenant, conversation_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS media_shown_by_conversation ON media_shown (conversation_id);
"""


class Database:
    """One connection, used by one thread."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot.

        Raises:
            Unavailable: the database cannot be used; the log says why.
        """
        return await self._run(work, "BEGIN")

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction, alone among all that write; an error undoes it.

        Raises:
            Unavailable: the database cannot be used; the log says why.
        """
        return await self._run(work, "BEGIN IMMEDIATE")

    async def _run(self, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        def transaction() -> T:
            with _transaction(self._connection, begin) as db:
                return work(db)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except sqlite3.Error as error:
            _log.error("store failed", problem=str(error))
            raise Unavailable("the conversation store cannot be used") from error


@asynccontextmanager
async def open_database(path: Path | None) -> AsyncIterator[Database]:
    """Open the file at `path`, created if it is missing; None keeps everything in memory.

    Raises:
        ConfigError: the file cannot be opened, is no database, or was written by another version.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite") as thread:
        try:
            connection = await loop.run_in_executor(thread, _connect, path)
        except sqlite3.Error as error:
            raise ConfigError(f"--store: cannot open {path} ({error})") from None
        try:
            yield Database(connection, thread)
        finally:
            await loop.run_in_executor(thread, connection.close)


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[sqlite3.Connection]:
    connection.execute(begin)
    try:
        yield connection
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def _connect(path: Path | None) -> sqlite3.Connection:
    target = path if path is not None else ":memory:"
    connection = sqlite3.connect(target, timeout=10.0, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    with _transaction(connection, "BEGIN IMMEDIATE") as db:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (number,) = db.execute("PRAGMA user_version").fetchone()
        if tables and number != _SCHEMA_NUMBER:
            raise ConfigError(f"--store: {path} was written by another version of this program")
        for statement in _statements(_SCHEMA):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_SCHEMA_NUMBER}")
    return connection


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
