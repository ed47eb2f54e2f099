"""The conversation calls through the public API."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from gateway.config import Config
from gateway.conversation_calls import Kept
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2 as chat
from internvl.v1 import content_pb2
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack

QUICK = ServerConfig("127.0.0.1:0")


async def create(stack: Stack, **fields: Any) -> chat.Conversation:
    return (await stack.chat.CreateConversation(chat.CreateConversationRequest(**fields))).conversation


async def say(stack: Stack, conversation_id: str, text: str) -> chat.ChatResult:
    request = chat_request(text, conversation_id=conversation_id)
    return [event async for event in stack.chat.Chat(request)][-1].result


async def fetch(stack: Stack, conversation_id: str) -> chat.Conversation:
    request = chat.GetConversationRequest(conversation_id=conversation_id)
    return (await stack.chat.GetConversation(request)).conversation


def texts(conversation: chat.Conversation) -> list[str]:
    return [part.text for message in conversation.messages for part in message.parts]


@bounded
async def test_list_shows_heads_with_the_last_changed_first() -> None:
    async with gateway_stack() as stack:
        first, second, third = [(await create(stack, title=title)).conversation_id for title in "abc"]
        await say(stack, first, "hello")
        page = await stack.chat.ListConversations(chat.ListConversationsRequest(page_size=2))
        rest = await stack.chat.ListConversations(
            chat.ListConversationsRequest(page_size=2, page_token=page.next_page_token)
        )
        found = [*page.conversations, *rest.conversations]
        assert [item.conversation_id for item in found] == [first, third, second]
        assert [(item.title, item.version, len(item.messages)) for item in found] == [
            ("a", 1, 0),
            ("c", 0, 0),
            ("b", 0, 0),
        ]
        assert (bool(page.next_page_token), rest.next_page_token) == (True, "")


@bounded
async def test_stored_turn_tells_how_it_ended() -> None:
    async with gateway_stack() as stack:
        conversation_id = (await create(stack, system_text="be brief")).conversation_id
        await say(stack, conversation_id, "one two")
        (turn,) = (await fetch(stack, conversation_id)).turns
        assert (turn.version, turn.messages) == (1, 2)
        assert turn.outcome == chat.TURN_OUTCOME_STOP
        assert (turn.usage.prompt_tokens, turn.usage.completion_tokens) == (10, 2)
        assert turn.turn_id
        assert turn.create_time.ToNanoseconds()


@bounded
async def test_fork_goes_on_from_the_turn_it_was_made_at() -> None:
    async with gateway_stack() as stack:
        conversation_id = (await create(stack, system_text="be brief", title="old")).conversation_id
        for text in ("one", "two"):
            await say(stack, conversation_id, text)
        request = chat.ForkConversationRequest(conversation_id=conversation_id, turns=1, title="new")
        fork = (await stack.chat.ForkConversation(request)).conversation
        assert (fork.version, fork.title, texts(fork)) == (1, "new", ["be brief", "one", "one"])
        assert (await say(stack, fork.conversation_id, "three")).conversation_version == 2
        assert [
            part.text
            for message in stack.llm.opened[-1].messages
            for part in message.parts
            if message.role == content_pb2.ROLE_USER
        ] == ["one", "three"]
        assert texts(await fetch(stack, conversation_id)) == ["be brief", "one", "one", "two", "two"]


@bounded
async def test_update_renames_and_sets_the_time_to_live() -> None:
    async with gateway_stack(Config(QUICK, kept=Kept(7200.0))) as stack:
        created = await create(stack, time_to_live=Duration(seconds=60))
        assert created.expire_time.seconds - created.update_time.seconds == 60
        assert not created.title
        request = chat.UpdateConversationRequest(conversation_id=created.conversation_id, title="shapes")
        renamed = (await stack.chat.UpdateConversation(request)).conversation
        assert renamed.title == "shapes"
        assert renamed.expire_time.seconds - renamed.update_time.seconds == 60
        request = chat.UpdateConversationRequest(
            conversation_id=created.conversation_id, time_to_live=Duration(seconds=9999)
        )
        longest = (await stack.chat.UpdateConversation(request)).conversation
        assert longest.expire_time.seconds - longest.update_time.seconds == 7200
        fallen_back = await create(stack)
        assert fallen_back.expire_time.seconds - fallen_back.update_time.seconds == 7200


@bounded
async def test_conversations_are_kept_for_ever_unless_told_otherwise() -> None:
    async with gateway_stack() as stack:
        assert not (await create(stack)).HasField("expire_time")


@bounded
async def test_conversation_out_of_time_is_not_found() -> None:
    async with gateway_stack() as stack:
        gone = await create(stack, time_to_live=Duration(nanos=1000))
        for attempt in (fetch(stack, gone.conversation_id), say(stack, gone.conversation_id, "hi")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await attempt
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert not stack.llm.opened


@pytest.mark.parametrize(
    ("method", "request_", "problem"),
    [
        ("ListConversations", chat.ListConversationsRequest(page_size=0), "page_size: must be 1 to 500"),
        ("ListConversations", chat.ListConversationsRequest(page_size=501), "page_size: must be 1 to 500"),
        ("ListConversations", chat.ListConversationsRequest(page_token="x"), "page_token: must be"),
        ("CreateConversation", chat.CreateConversationRequest(title="x" * 257), "title: at most 256"),
        (
            "CreateConversation",
            chat.CreateConversationRequest(time_to_live=Duration(seconds=-1)),
            "time_to_live: must be above 0",
        ),
        (
            "CreateConversation",
            chat.CreateConversationRequest(time_to_live=Duration(seconds=2**62)),
            "time_to_live: must be above 0 and at most",
        ),
        ("GetConversation", chat.GetConversationRequest(), "conversation_id: is required"),
        ("DeleteConversation", chat.DeleteConversationRequest(), "conversation_id: is required"),
        ("UpdateConversation", chat.UpdateConversationRequest(title="a"), "conversation_id: is required"),
        ("ForkConversation", chat.ForkConversationRequest(), "conversation_id: is required"),
    ],
)
@bounded
async def test_bad_request_names_the_field(method: str, request_: Any, problem: str) -> None:
    async with gateway_stack() as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stack.chat, method)(request_)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(problem)


@bounded
async def test_fork_behind_the_last_turn_is_refused() -> None:
    async with gateway_stack() as stack:
        conversation_id = (await create(stack)).conversation_id
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.chat.ForkConversation(
                chat.ForkConversationRequest(conversation_id=conversation_id, turns=1)
            )
        assert caught.value.details() == "turns: the conversation has 0 turns, got 1"
