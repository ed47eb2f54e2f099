"""Conversations and uploads through the public API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway.config import Config
from gateway.storage.media_store import MediaConfig
from internvl.errors import Overloaded, Unavailable
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2, content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, until, user

QUICK = ServerConfig("127.0.0.1:0")


async def say(stack: Stack, conversation_id: str, *parts: Any) -> chat_service_pb2.ChatResult:
    request = chat_request(*parts, conversation_id=conversation_id)
    return [event async for event in stack.chat.Chat(request)][-1].result


async def create(stack: Stack, **fields: Any) -> str:
    response = await stack.chat.CreateConversation(chat_service_pb2.CreateConversationRequest(**fields))
    return str(response.conversation.conversation_id)


async def fetch(stack: Stack, conversation_id: str) -> chat_service_pb2.Conversation:
    request = chat_service_pb2.GetConversationRequest(conversation_id=conversation_id)
    return (await stack.chat.GetConversation(request)).conversation


async def upload(stack: Stack, *chunks: bytes) -> chat_service_pb2.UploadMediaResponse:
    async def requests() -> AsyncIterator[chat_service_pb2.UploadMediaRequest]:
        for chunk in chunks:
            yield chat_service_pb2.UploadMediaRequest(chunk=chunk)

    return await stack.chat.UploadMedia(requests())


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def by_id(media_id: str) -> content_pb2.Part:
    return content_pb2.Part(image=content_pb2.Image(source=content_pb2.MediaSource(media_id=media_id)))


@bounded
async def test_second_turn_sends_the_history_and_encodes_nothing() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack, system_text="be brief")
        first = await say(stack, conversation_id, picture(3), "what is it")
        second = await say(stack, conversation_id, "are you sure")
        assert (first.conversation_version, second.conversation_version) == (1, 2)
        assert len(stack.vision.encoded) == 1
        assert len(stack.llm.received) == 3
        assert [[part.text for part in m.parts if part.text] for m in stack.llm.opened[-1].messages] == [
            ["be brief"],
            ["what is it"],
            ["what is it"],
            ["are you sure"],
        ]


@bounded
async def test_conversation_holds_media_by_id() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        await say(stack, conversation_id, picture(1), "what is it")
        conversation = await fetch(stack, conversation_id)
        assert conversation.version == 1
        assert [message.role for message in conversation.messages] == [
            content_pb2.ROLE_USER,
            content_pb2.ROLE_ASSISTANT,
        ]
        source = conversation.messages[0].parts[0].image.source
        assert source.WhichOneof("source") == "media_id"
        assert conversation.update_time.ToNanoseconds() >= conversation.create_time.ToNanoseconds()


@bounded
async def test_turns_that_end_before_they_say_anything_leave_no_trace() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        stack.llm.refusal = Overloaded("the queue is full", retry_after_s=1.0)
        with pytest.raises(grpc.aio.AioRpcError):
            await say(stack, conversation_id, "one two")
        stack.llm.refusal = None
        stack.llm.gate.clear()
        call = stack.chat.Chat(chat_request("one two", conversation_id=conversation_id))
        await until(lambda: stack.llm.active)
        call.cancel()
        await until(lambda: not stack.llm.active)
        conversation = await fetch(stack, conversation_id)
        assert (conversation.version, len(conversation.messages)) == (0, 0)


@bounded
async def test_partial_answers_are_kept_with_how_they_ended() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        stack.llm.failure = Unavailable("the model is going away")
        with pytest.raises(grpc.aio.AioRpcError):
            await say(stack, conversation_id, "one two")
        stack.llm.failure, stack.llm.hold_at = None, 2
        call = stack.chat.Chat(chat_request("three four five", conversation_id=conversation_id))
        events = aiter(call)
        for _ in range(3):
            await anext(events)
        call.cancel()
        stored = await fetch(stack, conversation_id)
        async with asyncio.timeout(10):
            while stored.version < 2:
                stored = await fetch(stack, conversation_id)
        assert [turn.outcome for turn in stored.turns] == [
            chat_service_pb2.TURN_OUTCOME_ERROR,
            chat_service_pb2.TURN_OUTCOME_CANCELLED,
        ]
        assert [message.parts[0].text for message in stored.messages] == [
            "one two",
            "one",
            "three four five",
            "three four",
        ]


@bounded
async def test_expected_version_is_checked_before_anything_is_computed() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)

        async def turn(**fields: Any) -> grpc.StatusCode:
            try:
                [event async for event in stack.chat.Chat(chat_request("hi", **fields))]
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        mine = {"conversation_id": conversation_id, "expected_version": 0}
        assert await turn(**mine) is grpc.StatusCode.OK
        assert await turn(**mine) is grpc.StatusCode.ABORTED
        assert await turn(expected_version=0) is grpc.StatusCode.INVALID_ARGUMENT
        assert len(stack.llm.opened) == 1


@bounded
async def test_two_turns_at_once_conflict() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        stack.llm.gate.clear()
        slow = stack.chat.Chat(chat_request("slow", conversation_id=conversation_id))
        await until(lambda: stack.llm.active)
        other = stack.chat.Chat(chat_request("fast", conversation_id=conversation_id))
        await until(lambda: stack.llm.active == 2)
        stack.llm.gate.set()
        outcomes = []
        for call in (slow, other):
            try:
                outcomes.append([event async for event in call][-1].result.conversation_version)
            except grpc.aio.AioRpcError as error:
                outcomes.append(error.code())
        assert set(outcomes) == {1, grpc.StatusCode.ABORTED}
        assert (await fetch(stack, conversation_id)).version == 1


@bounded
async def test_system_message_within_a_conversation_is_refused() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        system = content_pb2.Message(role=content_pb2.ROLE_SYSTEM, parts=[content_pb2.Part(text="be rude")])
        request = chat_service_pb2.ChatRequest(messages=[system, user("hi")], conversation_id=conversation_id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [event async for event in stack.chat.Chat(request)]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith("messages[0].role: ")


@bounded
async def test_deleted_conversation_is_not_found() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        await stack.chat.DeleteConversation(
            chat_service_pb2.DeleteConversationRequest(conversation_id=conversation_id)
        )
        for attempt in (fetch(stack, conversation_id), say(stack, conversation_id, "hi")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await attempt
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@bounded
async def test_lost_picture_of_an_earlier_turn_is_named_by_its_place(tmp_path: Path) -> None:
    """The language tier forgot the picture, and its file was lost."""
    async with gateway_stack(Config(QUICK, media=MediaConfig(tmp_path))) as stack:
        conversation_id = await create(stack)
        await say(stack, conversation_id, picture(1), "what is it")
        for path in files(tmp_path):
            path.unlink()
        assert (await say(stack, conversation_id, "still cached")).conversation_version == 2
        stack.llm.cached.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(stack, conversation_id, "and now")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details().startswith("conversation.messages[0].parts[0].image: ")


@bounded
async def test_picture_of_a_conversation_is_kept_until_it_is_deleted(tmp_path: Path) -> None:
    config = Config(QUICK, media=MediaConfig(tmp_path, max_file_bytes=1000, quota_bytes=1000))
    async with gateway_stack(config) as stack:
        conversation_id = await create(stack)
        await say(stack, conversation_id, picture(1, "z" * 600), "what is it")
        await upload(stack, picture(1, "x" * 300))
        await upload(stack, picture(1, "y" * 300))  # drops the upload that no conversation shows
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upload(stack, picture(1, "v" * 600))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "used up by conversations" in str(caught.value.details())
        stack.llm.cached.clear()
        assert (await say(stack, conversation_id, "sure")).conversation_version == 2
        await stack.chat.DeleteConversation(
            chat_service_pb2.DeleteConversationRequest(conversation_id=conversation_id)
        )
        assert (await upload(stack, picture(1, "v" * 600))).media_id


@bounded
async def test_upload_that_stalls_is_ended_and_leaves_no_trace(tmp_path: Path) -> None:
    async with gateway_stack(Config(QUICK, media=MediaConfig(tmp_path, idle_s=0.2))) as stack:
        never = asyncio.Event()

        async def requests() -> AsyncIterator[chat_service_pb2.UploadMediaRequest]:
            yield chat_service_pb2.UploadMediaRequest(chunk=b"1 pic")
            await never.wait()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.chat.UploadMedia(requests())
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: files(tmp_path) == [])


@bounded
async def test_conversations_and_media_survive_a_restart(tmp_path: Path) -> None:
    config = Config(QUICK, media=MediaConfig(tmp_path / "media"), store=str(tmp_path / "chat.db"))
    async with gateway_stack(config) as stack:
        conversation_id = await create(stack)
        await say(stack, conversation_id, picture(2), "what is it")
    async with gateway_stack(config) as stack:
        result = await say(stack, conversation_id, "do you remember")
        assert result.conversation_version == 2
        assert stack.vision.encoded == [(picture(2), 0)]


@bounded
async def test_picture_that_only_the_index_survived_can_be_shown_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(QUICK, store=str(tmp_path / "chat.db"))
    async with gateway_stack(config) as stack:
        conversation_id = await create(stack)
        await say(stack, conversation_id, picture(2), "what is it")
    async with gateway_stack(config) as stack:
        result = await say(stack, conversation_id, picture(2), "and this")
        assert result.message.parts[0].text == "and this"
        assert (await upload(stack, picture(2))).info.media_type == "image/test"
    assert "set --media-dir" in capsys.readouterr().err


@bounded
async def test_upload_is_stored_once_and_used_by_id() -> None:
    async with gateway_stack() as stack:
        whole = await upload(stack, picture(2))
        pieces = await upload(stack, picture(2)[:3], b"", picture(2)[3:])
        assert whole.media_id == pieces.media_id
        assert whole.size_bytes == len(picture(2))
        assert whole.info.media_type == "image/test"
        events = [event async for event in stack.chat.Chat(chat_request(by_id(whole.media_id), "what is it"))]
        assert events[-1].result.message.parts[0].text == "what is it"
        assert stack.vision.encoded == [(picture(2), 0)]


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ((), "chunk: the file is empty"),
        ((b"",), "chunk: the file is empty"),
        ((b"x" * 60, b"x" * 60), "chunk: the file is over the limit of 100 bytes"),
        ((b"no picture",), "chunk: unknown format"),
        ((b"1",), "chunk: the file is below the least size of 2 bytes"),
    ],
)
@bounded
async def test_bad_upload_is_refused_and_not_kept(
    chunks: tuple[bytes, ...], problem: str, tmp_path: Path
) -> None:
    config = Config(
        QUICK, media=MediaConfig(tmp_path, max_file_bytes=100, quota_bytes=1000, min_file_bytes=2)
    )
    async with gateway_stack(config) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upload(stack, *chunks)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == problem
        assert files(tmp_path) == []
