"""What every store of conversations must do, whichever it is and however many gateways share it."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.answer import Usage
from gateway.content import ImageOptions, Media, Message, Role, Text, VideoOptions
from gateway.deadline import Deadline
from gateway.storage.claims import LEASE_S, Answered, Claim, Claims, ClaimStore, Running, TurnKey
from gateway.storage.conversations import ConversationStore, StoredTurn, TurnOutcome
from gateway.storage.store import MEMORY, Store, open_store
from internvl.errors import (
    AlreadyExists,
    ConfigError,
    Conflict,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Unavailable,
)
from tests.unit.event_loop import bounded, until
from tests.unit.redis_server import RedisServer

# Opens the same two gateways' views of one store; in memory, both are one.
Open = Callable[[], AbstractAsyncContextManager[tuple[Store, Store]]]

SYSTEM = Message(Role.SYSTEM, (Text("be brief"),))
TURN = StoredTurn(
    "turn-1",
    (
        Message(
            Role.USER,
            (
                Media("a" * 64, ImageOptions(max_tiles=6, thumbnail=False)),
                Media("b" * 64, VideoOptions(frames=4, start_s=0.0)),
                Text("what is it?"),
            ),
        ),
        Message(Role.ASSISTANT, (Text("a red circle"),)),
    ),
    TurnOutcome.STOP,
    Usage(prompt_tokens=20, visual_tokens=10, cached_tokens=5, completion_tokens=3),
    key="first",
)
MORE = StoredTurn(
    "turn-2",
    (Message(Role.USER, (Text("sure?"),)), Message(Role.ASSISTANT, (Text("I thi"),))),
    TurnOutcome.CANCELLED,
)
KEY = TurnKey("", "", "key")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "file", "redis"])
def open_stores(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    where = str(tmp_path / "conversations.db")
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        server.flush()
        where = server.url

    @asynccontextmanager
    async def both() -> AsyncIterator[tuple[Store, Store]]:
        if request.param == "memory":
            async with open_store(MEMORY) as store:
                yield store, store
        else:
            async with open_store(where) as one, open_store(where) as two:
                yield one, two

    return both


def run(open_stores: Open, work: Callable[[Store, Store], Awaitable[None]]) -> None:
    @bounded
    async def within() -> None:
        async with open_stores() as (one, two):
            await work(one, two)

    within()


async def filled(store: ConversationStore, tenant: str = "") -> str:
    """A conversation with a system message and two turns."""
    created = await store.create(tenant, [SYSTEM], title="shapes")
    await store.append(tenant, created.conversation_id, 0, TURN)
    await store.append(tenant, created.conversation_id, 1, MORE)
    return created.conversation_id


def test_turns_come_back_as_they_were_stored(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        created = await one.conversations.create("", [SYSTEM], title="shapes", time_to_live_s=3600.0)
        assert await one.conversations.append("", created.conversation_id, 0, TURN) == 1
        assert await two.conversations.append("", created.conversation_id, 1, MORE) == 2
        conversation = await two.conversations.get("", created.conversation_id)
        assert conversation.opening == (SYSTEM,)
        assert conversation.turns == (TURN, MORE)
        assert conversation.messages == (SYSTEM, *TURN.messages, *MORE.messages)
        assert (conversation.version, conversation.title) == (2, "shapes")
        assert conversation.created == created.created
        assert conversation.updated >= created.updated
        assert conversation.expires == conversation.updated + datetime.timedelta(hours=1)

    run(open_stores, work)


def test_new_conversation_is_empty_and_has_an_id_of_its_own(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        first, second = await one.conversations.create(""), await one.conversations.create("")
        assert first.conversation_id != second.conversation_id
        assert await two.conversations.get("", first.conversation_id) == first
        assert (first.version, first.messages, first.expires) == (0, (), None)

    run(open_stores, work)


@pytest.mark.parametrize("version", [0, 2])
def test_other_version_conflicts_and_changes_nothing(open_stores: Open, version: int) -> None:
    async def work(one: Store, two: Store) -> None:
        created = await one.conversations.create("")
        await one.conversations.append("", created.conversation_id, 0, TURN)
        with pytest.raises(Conflict) as caught:
            await two.conversations.append("", created.conversation_id, version, MORE)
        assert caught.value.metadata["version"] == "1"
        assert (await one.conversations.get("", created.conversation_id)).turns == (TURN,)

    run(open_stores, work)


def test_one_of_many_racing_turns_is_stored(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        created = await one.conversations.create("")
        racing = [
            store.conversations.append("", created.conversation_id, 0, replace(TURN, turn_id=str(number)))
            for number, store in enumerate((one, two) * 10)
        ]
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        assert outcomes.count(1) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19
        (stored,) = (await two.conversations.get("", created.conversation_id)).turns
        assert stored.turn_id == str(outcomes.index(1))

    run(open_stores, work)


def test_unknown_conversation_is_not_found(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        store = one.conversations
        for call in (
            store.get("", "none"),
            store.append("", "none", 0, TURN),
            store.update("", "none", title="new"),
            store.fork("", "none"),
            store.delete("", "none"),
        ):
            with pytest.raises(NotFound):
                await call

    run(open_stores, work)


def test_conversation_of_another_tenant_is_not_found_and_stays(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        conversation_id = await filled(one.conversations, "mine")
        store = two.conversations
        for tenant in ("", "other", "mine "):
            for call in (
                store.get(tenant, conversation_id),
                store.append(tenant, conversation_id, 2, TURN),
                store.update(tenant, conversation_id, title="new"),
                store.fork(tenant, conversation_id),
                store.delete(tenant, conversation_id),
            ):
                with pytest.raises(NotFound):
                    await call
            assert (await store.list(tenant, 10)).heads == ()
        assert (await store.get("mine", conversation_id)).turns == (TURN, MORE)

    run(open_stores, work)


def test_deleted_conversation_is_gone_and_others_stay(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        kept, dropped = await filled(one.conversations), await filled(one.conversations)
        await two.conversations.delete("", dropped)
        with pytest.raises(NotFound):
            await one.conversations.get("", dropped)
        assert (await one.conversations.get("", kept)).turns == (TURN, MORE)
        assert [head.conversation_id for head in (await two.conversations.list("", 10)).heads] == [kept]

    run(open_stores, work)


def test_list_pages_through_all_with_the_last_changed_first(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        ids = [(await one.conversations.create("", title=str(n))).conversation_id for n in range(7)]
        await two.conversations.append("", ids[2], 0, TURN)
        await two.conversations.update("", ids[4], title="four")
        await one.conversations.create("other")
        found, token = [], ""
        for size in (3, 3, 1):
            page = await two.conversations.list("", 3, token)
            assert len(page.heads) == size
            found += page.heads
            token = page.next_token
        assert not token
        assert [head.conversation_id for head in found] == [ids[n] for n in (4, 2, 6, 5, 3, 1, 0)]
        assert (found[0].title, found[1].version) == ("four", 1)

    run(open_stores, work)


@pytest.mark.parametrize("token", ["x", "????", "bm8gdGltZSBoZXJl", "\u00e9"])
def test_page_token_that_nobody_gave_is_refused(open_stores: Open, token: str) -> None:
    async def work(one: Store, two: Store) -> None:
        with pytest.raises(InvalidField, match="page_token"):
            await one.conversations.list("", 3, token)

    run(open_stores, work)


def test_update_changes_what_it_is_given(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        conversation_id = await filled(one.conversations)
        renamed = await two.conversations.update("", conversation_id, title="circles")
        assert (renamed.title, renamed.version, renamed.time_to_live_s) == ("circles", 2, None)
        shorter = await one.conversations.update("", conversation_id, time_to_live_s=60.0)
        assert (shorter.title, shorter.expires) == (
            "circles",
            shorter.updated + datetime.timedelta(minutes=1),
        )
        assert (await two.conversations.get("", conversation_id)).turns == (TURN, MORE)

    run(open_stores, work)


def test_fork_goes_its_own_way(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        conversation_id = await filled(one.conversations, "mine")
        fork = await two.conversations.fork("mine", conversation_id, 1, "other shapes")
        assert (fork.version, fork.title, fork.opening, fork.turns) == (1, "other shapes", (SYSTEM,), (TURN,))
        assert await one.conversations.append("mine", fork.conversation_id, 1, replace(MORE, key=None)) == 2
        await one.conversations.delete("mine", conversation_id)
        assert (await two.conversations.get("mine", fork.conversation_id)).turns == (TURN, MORE)

    run(open_stores, work)


def test_fork_takes_all_turns_or_none_but_not_more_than_there_are(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        conversation_id = await filled(one.conversations)
        everything = await one.conversations.fork("", conversation_id)
        assert (everything.title, everything.turns) == ("shapes", (TURN, MORE))
        assert (await one.conversations.fork("", conversation_id, 0)).messages == (SYSTEM,)
        with pytest.raises(InvalidField, match="turns: the conversation has 2 turns, got 3"):
            await one.conversations.fork("", conversation_id, 3)

    run(open_stores, work)


def test_conversation_out_of_time_is_not_found_and_swept(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        short = await one.conversations.create("", time_to_live_s=1e-6)
        kept = await one.conversations.create("", time_to_live_s=3600.0)
        for call in (
            two.conversations.get("", short.conversation_id),
            two.conversations.append("", short.conversation_id, 0, TURN),
        ):
            with pytest.raises(NotFound):
                await call
        (head,) = (await two.conversations.list("", 10)).heads
        assert head.conversation_id == kept.conversation_id
        assert [await store.conversations.sweep() for store in (one, two)] == [1, 0]

    run(open_stores, work)


def test_a_turn_moves_the_end_of_time(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        created = await one.conversations.create("", time_to_live_s=3600.0)
        await one.conversations.append("", created.conversation_id, 0, TURN)
        conversation = await two.conversations.get("", created.conversation_id)
        assert created.expires is not None
        assert conversation.expires is not None
        assert conversation.expires - conversation.updated == datetime.timedelta(hours=1)
        assert conversation.expires > created.expires

    run(open_stores, work)


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
