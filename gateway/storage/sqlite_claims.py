"""Idempotency keys in SQLite."""

from __future__ import annotations

import sqlite3
import time

from gateway.storage.claims import KEPT_S, LEASE_S, Answered, Claim, Running, TurnKey, key_taken, lost_claim
from gateway.storage.sqlite_store import Database

_WHERE = "tenant = ? AND conversation_id = ? AND key = ?"


class SqliteClaims:
    """A `ClaimStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, key: TurnKey, fingerprint: str, turn_id: str, lease_s: float = LEASE_S
    ) -> Claim | Running | Answered:
        def work(db: sqlite3.Connection) -> Claim | Running | Answered:
            now = time.time()
            row = db.execute(
                f"SELECT fingerprint, turn_id, answer FROM claims WHERE {_WHERE} AND expires > ?",
                (*_row(key), now),
            ).fetchone()
            if row is None:
                values = (*_row(key), fingerprint, turn_id, now + lease_s)
                db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, NULL, ?)", values)
                return Claim(key, turn_id)
            used_for, holder, answer = row
            if holder == turn_id and answer is None:
                return Claim(key, turn_id)
            if used_for != fingerprint:
                raise key_taken()
            return Running(holder) if answer is None else Answered(holder, answer)

        return await self._database.write(work)

    async def renew(self, claim: Claim, lease_s: float = LEASE_S) -> None:
        await self._database.write(lambda db: _set(db, claim, None, lease_s))

    async def answer(self, claim: Claim, answer: bytes) -> None:
        await self._database.write(lambda db: answer_claim(db, claim, answer))

    async def release(self, claim: Claim) -> None:
        def work(db: sqlite3.Connection) -> None:
            held = (*_row(claim.key), claim.turn_id)
            db.execute(f"DELETE FROM claims WHERE {_WHERE} AND turn_id = ? AND answer IS NULL", held)

        await self._database.write(work)


def answer_claim(db: sqlite3.Connection, claim: Claim, answer: bytes) -> None:
    """Answer a key within a transaction.

    Raises:
        Conflict: the claim was lost.
    """
    _set(db, claim, answer, KEPT_S)


def _set(db: sqlite3.Connection, claim: Claim, answer: bytes | None, kept_s: float) -> None:
    # A lease that ran out still counts as long as nobody took the key over.
    held = db.execute(
        f"UPDATE claims SET answer = ?, expires = ? WHERE {_WHERE} AND turn_id = ? AND answer IS NULL",
        (answer, time.time() + kept_s, *_row(claim.key), claim.turn_id),
    )
    if not held.rowcount:
        raise lost_claim()


def _row(key: TurnKey) -> tuple[str, str, str]:
    return key.tenant, key.conversation_id, key.key
