"""What every store does with conversations, whichever it is and however many gateways share it."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import replace

import pytest

from gateway.storage.store import Store
from internvl.errors import (
    Conflict,
    FailedPrecondition,
    InvalidField,
    NotFound,
)
from tests.unit.store_samples import MORE, SYSTEM, TURN, Open, filled, run


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


def test_tenant_has_no_more_conversations_than_one_may_have(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        first = await filled(one.conversations, "mine")
        await two.conversations.create("mine")
        for call in (one.conversations.create("mine"), two.conversations.fork("mine", first)):
            with pytest.raises(FailedPrecondition, match="2 conversations, as many as one tenant may have"):
                await call
        assert len((await one.conversations.list("mine", 10)).heads) == 2
        await one.conversations.create("other")
        await two.conversations.delete("mine", first)
        await one.conversations.create("mine")

    run(open_stores, work, most=2)


def test_conversations_out_of_time_take_no_place(open_stores: Open) -> None:
    async def work(one: Store, two: Store) -> None:
        await one.conversations.create("", time_to_live_s=1e-6)
        kept = await two.conversations.create("")
        with pytest.raises(FailedPrecondition):
            await one.conversations.create("")
        assert [head.conversation_id for head in (await one.conversations.list("", 10)).heads] == [
            kept.conversation_id
        ]

    run(open_stores, work, most=1)
