"""Stores to test: in memory, in a file, in Redis; and what is stored in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from gateway.answer import Usage
from gateway.content import ImageOptions, Media, Message, Role, Text, VideoOptions
from gateway.storage.claims import TurnKey
from gateway.storage.conversations import ConversationStore, StoredTurn, TurnOutcome
from gateway.storage.store import MEMORY, Store, open_store
from tests.unit.event_loop import bounded

STORES = ("memory", "file", "redis")

# Opens the views that two gateways have of one store; in memory, both are one.
Open = Callable[..., AbstractAsyncContextManager[tuple[Store, Store]]]

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


def two_gateways(where: str) -> Open:
    """How two gateways open the store that `where` names."""

    @asynccontextmanager
    async def both(most: int | None = None) -> AsyncIterator[tuple[Store, Store]]:
        if where == MEMORY:
            async with open_store(where, most) as store:
                yield store, store
        else:
            async with open_store(where, most) as one, open_store(where, most) as two:
                yield one, two

    return both


def run(open_stores: Open, work: Callable[[Store, Store], Awaitable[None]], most: int | None = None) -> None:
    """Do something with a store that two gateways have open; `most` conversations a tenant."""

    @bounded
    async def within() -> None:
        async with open_stores(most) as (one, two):
            await work(one, two)

    within()


async def filled(store: ConversationStore, tenant: str = "") -> str:
    """A conversation with a system message and two turns."""
    created = await store.create(tenant, [SYSTEM], title="shapes")
    await store.append(tenant, created.conversation_id, 0, TURN)
    await store.append(tenant, created.conversation_id, 1, MORE)
    return created.conversation_id
