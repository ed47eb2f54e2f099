"""What every store does with idempotency keys, whichever it is and however many gateways share it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.deadline import Deadline
from gateway.storage.claims import LEASE_S, Answered, Claim, Claims, ClaimStore, Running, TurnKey
from gateway.storage.store import Store
from internvl.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
)
from tests.unit.event_loop import until
from tests.unit.store_samples import KEY, TURN, Open, run


def test_key_is_claimed_once_and_then_answered(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        claim = await one.claims.claim(KEY, "request", "turn-1")
        assert isinstance(claim, Claim)
        assert await two.claims.claim(KEY, "request", "turn-2") == Running("turn-1")
        await one.claims.answer(claim, b"forty-two")
        assert await two.claims.claim(KEY, "request", "turn-3") == Answered("turn-1", b"forty-two")

    run(open_stores, work)


def test_one_of_many_racing_claims_wins(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        racing = [
            store.claims.claim(KEY, "request", str(number)) for number, store in enumerate((one, two) * 10)
        ]
        outcomes = await asyncio.gather(*racing)
        (winner,) = (outcome for outcome in outcomes if isinstance(outcome, Claim))
        assert outcomes.count(Running(winner.turn_id)) == 19

    run(open_stores, work)


def test_key_stands_for_one_request(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        claim = await one.claims.claim(KEY, "request", "turn-1")
        assert isinstance(claim, Claim)
        with pytest.raises(AlreadyExists, match="idempotency_key"):
            await two.claims.claim(KEY, "other request", "turn-2")
        await one.claims.answer(claim, b"")
        with pytest.raises(AlreadyExists, match="idempotency_key"):
            await two.claims.claim(KEY, "other request", "turn-2")

    run(open_stores, work)


def test_keys_of_other_tenants_and_conversations_are_other_keys(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        keys = [TurnKey(tenant, where, "key") for tenant in ("", "a", "b") for where in ("", "c", "d")]
        for number, key in enumerate(keys):
            assert await one.claims.claim(key, str(number), str(number)) == Claim(key, str(number))

    run(open_stores, work)


def test_claim_of_a_gateway_that_died_runs_out(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        dead = await one.claims.claim(KEY, "request", "turn-1", lease_s=0.0)
        assert isinstance(dead, Claim)
        taken = await two.claims.claim(KEY, "request", "turn-2")
        assert taken == Claim(KEY, "turn-2")
        for call in (one.claims.renew(dead), one.claims.answer(dead, b"late")):
            with pytest.raises(Conflict):
                await call
        await one.claims.release(dead)
        assert await one.claims.claim(KEY, "request", "turn-3") == Running("turn-2")

    run(open_stores, work)


def test_renewed_claim_holds(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        claim = await one.claims.claim(KEY, "request", "turn-1", lease_s=0.0)
        assert isinstance(claim, Claim)
        await one.claims.renew(claim)
        assert await two.claims.claim(KEY, "request", "turn-2") == Running("turn-1")

    run(open_stores, work)


def test_released_key_is_free_and_an_answered_one_is_not(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        claim = await one.claims.claim(KEY, "request", "turn-1")
        assert isinstance(claim, Claim)
        await one.claims.release(claim)
        again = await two.claims.claim(KEY, "another request", "turn-2")
        assert isinstance(again, Claim)
        await two.claims.answer(again, b"done")
        await two.claims.release(again)
        assert await one.claims.claim(KEY, "another request", "turn-3") == Answered("turn-2", b"done")

    run(open_stores, work)


def test_turn_and_answer_are_stored_together_or_not_at_all(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        conversation_id = (await one.conversations.create("")).conversation_id
        key = TurnKey("", conversation_id, "key")
        lost = await one.claims.claim(key, "request", "turn-1", lease_s=0.0)
        claim = await two.claims.claim(key, "request", "turn-2")
        assert isinstance(lost, Claim)
        assert isinstance(claim, Claim)
        with pytest.raises(Conflict):
            await one.conversations.append("", conversation_id, 0, TURN, lost, b"lost")
        with pytest.raises(Conflict):
            await two.conversations.append("", conversation_id, 1, TURN, claim, b"too early")
        assert (await one.conversations.get("", conversation_id)).version == 0
        assert await one.claims.claim(key, "request", "turn-3") == Running("turn-2")
        assert await two.conversations.append("", conversation_id, 0, TURN, claim, b"both") == 1
        assert await one.claims.claim(key, "request", "turn-3") == Answered("turn-2", b"both")

    run(open_stores, work)


def test_deleted_conversation_takes_its_keys_with_it(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        conversation_id = (await one.conversations.create("")).conversation_id
        key = TurnKey("", conversation_id, "key")
        claim = await one.claims.claim(key, "request", "turn-1")
        assert isinstance(claim, Claim)
        await one.conversations.append("", conversation_id, 0, TURN, claim, b"said")
        await two.conversations.delete("", conversation_id)
        assert isinstance(await one.claims.claim(key, "other request", "turn-2"), Claim)

    run(open_stores, work)


def test_waiting_ends_with_the_answer_of_the_other_gateway(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        claims = Claims(one.claims)
        claim = await claims.take(KEY, "request", "turn-1")
        assert isinstance(claim, Claim)
        waiting = asyncio.create_task(Claims(two.claims).wait(KEY, "request", "turn-2", Deadline(None)))
        with pytest.raises(DeadlineExceeded):
            await Claims(two.claims).wait(KEY, "request", "turn-3", Deadline.after(0.1))
        assert not waiting.done()
        async with claims.held(claim):
            await one.claims.answer(claim, b"said")
        assert await waiting == Answered("turn-1", b"said")

    run(open_stores, work)


class CountingClaims:
    """Claims of a store, and how often they were renewed."""

    def __init__(self, claims: ClaimStore) -> None:
        self.claim, self.answer, self.release = claims.claim, claims.answer, claims.release
        self._claims = claims
        self.renewed = 0

    async def renew(self, claim: Claim, lease_s: float = LEASE_S) -> None:
        await self._claims.renew(claim, lease_s)
        self.renewed += 1


def test_held_claim_is_renewed_and_then_given_back(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        counting = CountingClaims(one.claims)
        claims = Claims(counting, lease_s=0.03)
        claim = await claims.take(KEY, "request", "turn-1")
        assert isinstance(claim, Claim)
        async with claims.held(claim):
            await until(lambda: counting.renewed >= 3)
        assert await two.claims.claim(KEY, "request", "turn-2") == Claim(KEY, "turn-2")

    run(open_stores, work)


def test_holding_a_claim_that_was_lost_does_not_take_it_back(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        claims = Claims(one.claims, lease_s=0.03)
        lost = await one.claims.claim(KEY, "request", "turn-1", lease_s=0.0)
        assert isinstance(lost, Claim)
        assert await two.claims.claim(KEY, "request", "turn-2") == Claim(KEY, "turn-2")
        async with claims.held(lost):
            assert await one.claims.claim(KEY, "request", "turn-3") == Running("turn-2")
        assert await one.claims.claim(KEY, "request", "turn-3") == Running("turn-2")

    run(open_stores, work)
