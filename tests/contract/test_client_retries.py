"""What the client asks again when the connection breaks: never what may have been done already."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from internvl.v1 import chat_service_pb2
from internvl_client import AsyncClient, Client, Unavailable
from tests.contract.gateway_tiers import bounded

ASKED_AGAIN: dict[str, Callable[[Client], object]] = {
    "CancelTurn": lambda client: client.turn("t").cancel(),
    "GetConversation": lambda client: client.conversation(conversation_id="c").messages(),
    "GetTurn": lambda client: client.turn("t").poll(),
    "ListConversations": lambda client: list(client.conversations()),
    "PlanTurn": lambda client: client.plan("hi"),
    "ServerInfo": lambda client: client.info(),
    "UpdateConversation": lambda client: client.conversation(conversation_id="c").rename("other"),
    "UploadMedia": lambda client: client.upload(b"a picture"),
}
ASKED_ONCE: dict[str, Callable[[Client], object]] = {
    "BatchChat": lambda client: list(client.batch(["hi"])),
    "Chat": lambda client: client.conversation(conversation_id="c").say("hi").result(),
    "CreateConversation": lambda client: client.conversation().say("hi"),
    "DeleteConversation": lambda client: client.conversation(conversation_id="c").delete(),
    "ForkConversation": lambda client: client.conversation(conversation_id="c").fork(),
    "StartTurn": lambda client: client.start_turn("hi"),
}


class Breaking(grpc.GenericRpcHandler):
    """Takes every call, and ends it as a connection that is lost on the way.

    Attributes:
        calls: how often each method was called.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self.calls[call.method.rpartition("/")[2]] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")

        return grpc.stream_stream_rpc_method_handler(handle)


@asynccontextmanager
async def breaking() -> AsyncIterator[tuple[Breaking, str]]:
    server, handler = grpc.aio.server(), Breaking()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def calls_of(ask: Callable[[Client], object]) -> Counter[str]:
    async with breaking() as (server, address):

        def fail() -> None:
            with Client(address) as client, pytest.raises(Unavailable):
                ask(client)

        await asyncio.to_thread(fail)
        return server.calls


def test_every_method_is_one_or_the_other() -> None:
    service = chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"]
    # An attached stream reads on by itself, which `reattaching` counts.
    assert {*ASKED_AGAIN, *ASKED_ONCE, "AttachTurn"} == {method.name for method in service.methods}


@pytest.mark.parametrize("method", ASKED_AGAIN)
@bounded
async def test_what_only_reads_or_changes_nothing_twice_is_asked_three_times(method: str) -> None:
    assert await calls_of(ASKED_AGAIN[method]) == {method: 3}


@pytest.mark.parametrize("method", ASKED_ONCE)
@bounded
async def test_what_may_have_been_done_is_asked_once(method: str) -> None:
    assert await calls_of(ASKED_ONCE[method]) == {method: 1}


@bounded
async def test_the_asynchronous_client_keeps_to_it_too() -> None:
    async with breaking() as (server, address), AsyncClient(address) as client:
        with pytest.raises(Unavailable):
            await client.start_turn("hi")
        with pytest.raises(Unavailable):
            await client.info()
        assert server.calls == {"StartTurn": 1, "ServerInfo": 3}
