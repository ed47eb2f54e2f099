"""Gateways that share a Redis server, and what they do without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from gateway.config import Config
from gateway.storage.media_store import MediaConfig
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2 as chat
from internvl.v1 import content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, chat_request, gateway_stack
from tests.unit.event_loop import bounded, until
from tests.unit.redis_server import RedisServer

QUICK = ServerConfig("127.0.0.1:0")


async def say(stack: Stack, conversation_id: str, text: str) -> chat.ChatResult:
    request = chat_request(text, conversation_id=conversation_id)
    return [event async for event in stack.chat.Chat(request)][-1].result


async def collect(stack: Stack, request: chat.ChatRequest) -> chat.ChatResult:
    return [event async for event in stack.chat.Chat(request)][-1].result


async def create(stack: Stack) -> str:
    response = await stack.chat.CreateConversation(chat.CreateConversationRequest())
    return str(response.conversation.conversation_id)


def test_a_conversation_goes_on_at_another_gateway(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:

        @bounded
        async def work() -> None:
            config = Config(QUICK, store=redis.url)
            async with gateway_stack(config) as one, gateway_stack(config) as two:
                conversation_id = await create(one)
                assert (await say(one, conversation_id, "one")).conversation_version == 1
                assert (await say(two, conversation_id, "two")).conversation_version == 2
                assert (await say(one, conversation_id, "three")).conversation_version == 3
                assert len(one.llm.opened[-1].messages) == 5

        work()


def test_a_key_is_answered_once_by_whichever_gateway(tmp_path: Path) -> None:
    """The second call comes while the first still runs, at another gateway; the third when all is over."""
    with RedisServer(tmp_path) as redis:

        @bounded
        async def work() -> None:
            config = Config(QUICK, store=redis.url)
            async with gateway_stack(config) as one, gateway_stack(config) as two:
                conversation_id = await create(one)
                request = chat_request("one two", conversation_id=conversation_id, idempotency_key="k")
                one.llm.gate.clear()
                first = asyncio.create_task(collect(one, request))
                await until(lambda: one.llm.active)
                second = asyncio.create_task(collect(two, request))
                other = chat_request("three", conversation_id=conversation_id, idempotency_key="k")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await collect(two, other)
                assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
                assert not second.done()
                one.llm.gate.set()
                results = [await first, await second, await collect(two, request)]
                assert [result.message.parts[0].text for result in results] == ["one two"] * 3
                assert [result.conversation_version for result in results] == [1] * 3
                assert (len(one.llm.opened), len(two.llm.opened)) == (1, 0)
                stored = await two.chat.GetConversation(
                    chat.GetConversationRequest(conversation_id=conversation_id)
                )
                assert [turn.idempotency_key for turn in stored.conversation.turns] == ["k"]

        work()


def test_gateways_share_media(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis:

        @bounded
        async def work() -> None:
            config = Config(QUICK, store=redis.url, media=MediaConfig(tmp_path / "media"))
            async with gateway_stack(config) as one, gateway_stack(config) as two:

                async def chunks() -> AsyncIterator[chat.UploadMediaRequest]:
                    yield chat.UploadMediaRequest(chunk=picture(2))

                media_id = (await one.chat.UploadMedia(chunks())).media_id
                source = content_pb2.MediaSource(media_id=media_id)
                shown = content_pb2.Part(image=content_pb2.Image(source=source))
                result = await collect(two, chat_request(shown, "what is it"))
                assert result.message.parts[0].text == "what is it"
                assert two.vision.encoded == [(picture(2), 0)]

        work()


def test_without_its_store_a_gateway_answers_who_brings_the_history(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)

    @bounded
    async def work() -> None:
        async with gateway_stack(Config(QUICK, store=redis.url)) as stack:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await create(stack)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "127.0.0.1" not in str(caught.value.details())
            redis.start()
            conversation_id = await create(stack)
            await say(stack, conversation_id, "one")
            redis.kill()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(stack, conversation_id, "two")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert [event async for event in stack.chat.Chat(chat_request("hello"))][-1].result.message.parts[
                0
            ].text == "hello"
            redis.start()
            assert (await say(stack, conversation_id, "two")).conversation_version == 2

    try:
        work()
    finally:
        redis.kill()
