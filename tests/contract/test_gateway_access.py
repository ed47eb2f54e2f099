"""Keys, tenants and limits through the public API."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.access.access import AccessConfig
from gateway.access.api_keys import Allowance
from gateway.config import Config
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2 as chat
from internvl.v1 import content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack

QUICK = ServerConfig("127.0.0.1:0")
ANN, BOB, CAT = ((("authorization", f"Bearer {name}-key"),) for name in ("ann", "bob", "cat"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "keys.toml"
    path.write_text(
        "\n".join(
            f'[[keys]]\nname = "{name}"\ntenant = "{name}s"\nconcurrency = {most}\n{more}\n'
            f'sha256 = "{hashlib.sha256(f"{name}-key".encode()).hexdigest()}"'
            for name, most, more in (
                ("ann", 2, "max_priority = 0"),
                ("bob", 20, ""),
                ("cat", 9, "requests_per_minute = 4"),
            )
        )
    )
    return Config(QUICK, access=AccessConfig(str(path)))


async def uploads(*chunks: bytes) -> AsyncIterator[chat.UploadMediaRequest]:
    for chunk in chunks:
        yield chat.UploadMediaRequest(chunk=chunk)


def every_call(stack: Stack, metadata: Any) -> list[tuple[str, Any]]:
    """A call of every method of the contract."""
    calls = []
    for method in chat.DESCRIPTOR.services_by_name["ChatService"].methods:
        stub = getattr(stack.chat, method.name)
        request = uploads(b"x" * 100) if method.client_streaming else getattr(chat, method.input_type.name)()
        calls.append((method.name, stub(request, metadata=metadata)))
    return calls


async def outcome(call: Any) -> grpc.StatusCode:
    try:
        if hasattr(call, "__aiter__"):
            [_ async for _ in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    "metadata", [None, (("authorization", "Bearer eve-key"),), (("authorization", "ann-key"),)]
)
def test_every_call_needs_a_key(config: Config, metadata: Any) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            for name, call in every_call(stack, metadata):
                assert await outcome(call) is grpc.StatusCode.UNAUTHENTICATED, name
            assert not stack.llm.opened
            for name, call in every_call(stack, ANN):
                assert await outcome(call) is not grpc.StatusCode.UNAUTHENTICATED, name

    work()


def test_health_needs_no_key_and_nothing_is_reflected(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack, grpc.aio.insecure_channel(stack.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            response = await health.Check(health_pb2.HealthCheckRequest(service="ready"))
            assert response.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [answer async for answer in reflection.ServerReflectionInfo(iter([request]))]
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    work()


def test_conversations_of_another_tenant_do_not_exist(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            created = await stack.chat.CreateConversation(chat.CreateConversationRequest(), metadata=ANN)
            name = created.conversation.conversation_id
            turn = chat_request("hi", conversation_id=name)
            assert await outcome(stack.chat.Chat(turn, metadata=ANN)) is grpc.StatusCode.OK
            for call in (
                stack.chat.Chat(turn, metadata=BOB),
                stack.chat.GetConversation(chat.GetConversationRequest(conversation_id=name), metadata=BOB),
                stack.chat.ForkConversation(chat.ForkConversationRequest(conversation_id=name), metadata=BOB),
                stack.chat.DeleteConversation(
                    chat.DeleteConversationRequest(conversation_id=name), metadata=BOB
                ),
                stack.chat.UpdateConversation(
                    chat.UpdateConversationRequest(conversation_id=name, title="mine"), metadata=BOB
                ),
            ):
                assert await outcome(call) is grpc.StatusCode.NOT_FOUND
            listed = await stack.chat.ListConversations(chat.ListConversationsRequest(), metadata=BOB)
            assert not listed.conversations
            listed = await stack.chat.ListConversations(chat.ListConversationsRequest(), metadata=ANN)
            assert [item.version for item in listed.conversations] == [1]

    work()


def test_media_of_another_tenant_does_not_exist_until_it_is_brought(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            uploaded = await stack.chat.UploadMedia(uploads(picture(1)), metadata=ANN)
            source = content_pb2.MediaSource(media_id=uploaded.media_id)
            turn = chat_request(content_pb2.Part(image=content_pb2.Image(source=source)), "what is it")
            assert await outcome(stack.chat.Chat(turn, metadata=BOB)) is grpc.StatusCode.NOT_FOUND
            assert not stack.vision.encoded
            assert await outcome(stack.chat.Chat(turn, metadata=ANN)) is grpc.StatusCode.OK
            await stack.chat.UploadMedia(uploads(picture(1)), metadata=BOB)
            assert await outcome(stack.chat.Chat(turn, metadata=BOB)) is grpc.StatusCode.OK

    work()


def test_calls_above_the_allowance_are_told_when_to_come_back(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            stack.llm.gate.clear()
            running = [stack.chat.Chat(chat_request("hi"), metadata=ANN) for _ in range(2)]
            for call in running:
                await anext(aiter(call))
            refused = stack.chat.ListConversations(chat.ListConversationsRequest(), metadata=ANN)
            assert await outcome(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED
            details = dict(await refused.trailing_metadata())["grpc-status-details-bin"]
            retry = error_details_pb2.RetryInfo()
            assert any(any_.Unpack(retry) for any_ in status_pb2.Status.FromString(details).details)
            assert retry.retry_delay.ToMilliseconds() > 0
            other = stack.chat.ListConversations(chat.ListConversationsRequest(), metadata=BOB)
            assert await outcome(other) is grpc.StatusCode.OK
            stack.llm.gate.set()
            for call in running:
                assert await outcome(call) is grpc.StatusCode.OK
            again = stack.chat.ListConversations(chat.ListConversationsRequest(), metadata=ANN)
            assert await outcome(again) is grpc.StatusCode.OK

    work()


def test_turns_that_go_on_without_their_calls_are_counted_to_their_end(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            stack.llm.gate.clear()
            start = chat.StartTurnRequest(chat=chat_request("hi"))
            started = await stack.chat.StartTurn(start, metadata=ANN)
            dropped = stack.chat.Chat(chat_request("hi", resumable=True), metadata=ANN)
            turn_id = (await anext(aiter(dropped))).started.turn_id
            dropped.cancel()
            for call in (
                stack.chat.StartTurn(start, metadata=ANN),
                stack.chat.Chat(chat_request("hi"), metadata=ANN),
                stack.chat.Chat(chat_request("hi", resumable=True), metadata=ANN),
            ):
                assert await outcome(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "2 turns under way" in str(await call.details())
            looked = await stack.chat.GetTurn(chat.GetTurnRequest(turn_id=turn_id), metadata=ANN)
            assert looked.state == chat.TURN_STATE_RUNNING
            await stack.chat.CancelTurn(chat.CancelTurnRequest(turn_id=started.turn_id), metadata=ANN)
            again = await stack.chat.StartTurn(start, metadata=ANN)
            stack.llm.gate.set()
            for name in (turn_id, again.turn_id):
                attached = stack.chat.AttachTurn(chat.AttachTurnRequest(turn_id=name), metadata=ANN)
                assert await outcome(attached) is grpc.StatusCode.OK
            assert await outcome(stack.chat.Chat(chat_request("hi"), metadata=ANN)) is grpc.StatusCode.OK

    work()


def test_a_batch_runs_no_more_turns_than_its_key_may(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            request = chat.BatchChatRequest(requests=[chat_request("hi")] * 9, max_concurrent=8)
            answered = [answer async for answer in stack.chat.BatchChat(request, metadata=ANN)]
            assert [answer.HasField("result") for answer in answered] == [True] * 9
            assert stack.llm.most_active <= 2

    work()


def test_every_question_of_a_batch_is_charged(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            request = chat.BatchChatRequest(requests=[chat_request("hi")] * 6, max_concurrent=1)
            # The next one is allowed 15 s later: longer than this client waits.
            answered = [answer async for answer in stack.chat.BatchChat(request, metadata=CAT, timeout=10)]
            assert [answer.HasField("result") for answer in answered] == [True] * 4 + [False] * 2
            assert {answer.error.reason for answer in answered[4:]} == {"OVERLOADED"}
            refused = stack.chat.ListConversations(chat.ListConversationsRequest(), metadata=CAT)
            assert await outcome(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED

    work()


def test_a_batch_waits_until_its_key_may_ask_again() -> None:
    @bounded
    async def work() -> None:
        config = Config(QUICK, access=AccessConfig(allowance=Allowance(requests_per_minute=120)))
        async with gateway_stack(config) as stack:
            request = chat.BatchChatRequest(requests=[chat_request("hi")] * 122)
            answered = [answer async for answer in stack.chat.BatchChat(request)]
            assert [answer.HasField("result") for answer in answered] == [True] * 122

    work()


def test_a_key_asks_for_no_more_than_its_greatest_priority(config: Config) -> None:
    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            greedy = chat_request("hi", priority=1)
            for call in (
                stack.chat.Chat(greedy, metadata=ANN),
                stack.chat.Chat(chat_request("hi", priority=1, resumable=True), metadata=ANN),
                stack.chat.StartTurn(chat.StartTurnRequest(chat=greedy), metadata=ANN),
            ):
                assert await outcome(call) is grpc.StatusCode.INVALID_ARGUMENT
                assert await call.details() == "priority: this key may ask for at most 0, got 1"
            batch = stack.chat.BatchChat(chat.BatchChatRequest(requests=[greedy]), metadata=ANN)
            assert [answer.error.field async for answer in batch] == ["priority"]
            assert not stack.llm.opened
            for metadata, priority in ((ANN, 0), (ANN, -5), (BOB, 10)):
                asked = stack.chat.Chat(chat_request("hi", priority=priority), metadata=metadata)
                assert await outcome(asked) is grpc.StatusCode.OK

    work()
