"""What can go wrong in a turn, and what the client is told: a status, its own field, never an address."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.config import Config
from gateway.storage.media_store import MediaConfig
from gateway.wire import RequestLimits
from internvl.errors import BadMedia, ContextTooLong, InvalidField, Overloaded, Unavailable
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2, content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, until, user

USER, ASSISTANT, SYSTEM = content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT, content_pb2.ROLE_SYSTEM
QUICK = ServerConfig("127.0.0.1:0")


async def refusal(stack: Stack, request: chat_service_pb2.ChatRequest) -> grpc.aio.AioRpcError:
    """The error that ends a turn."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stack.chat.Chat(request):
            pass
    return caught.value


def detail(error: grpc.RpcError, message: Any) -> Any:
    """One kind of detail of an error."""
    status = rpc_status.from_call(error)
    assert any(packed.Unpack(message) for packed in status.details)
    return message


def field(error: grpc.RpcError) -> str:
    """The field that the error names."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    return detail(error, error_details_pb2.BadRequest()).field_violations[0].field


def text(role: int, *texts: str) -> content_pb2.Message:
    return content_pb2.Message(role=role, parts=[content_pb2.Part(text=each) for each in texts])


def image(**source: Any) -> content_pb2.Part:
    return content_pb2.Part(image=content_pb2.Image(source=content_pb2.MediaSource(**source)))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "messages"),
        ([text(0, "hi")], "messages[0].role"),
        ([text(9, "hi")], "messages[0].role"),
        ([text(USER)], "messages[0].parts"),
        ([user(content_pb2.Part())], "messages[0].parts[0].content"),
        ([user("hi", image())], "messages[0].parts[1].image.source"),
        ([user(content_pb2.Part(video=content_pb2.Video()))], "messages[0].parts[0].video.source"),
        ([text(USER, "hi"), text(SYSTEM, "be nice"), text(USER, "ok")], "messages[1].role"),
        ([text(USER, "hi"), text(ASSISTANT, "hello")], "messages[1].role"),
        ([text(SYSTEM, "be nice")], "messages[0].role"),
        (
            [content_pb2.Message(role=SYSTEM, parts=[image(data=b"1 x")]), text(USER, "hi")],
            "messages[0].parts[0]",
        ),
        (
            [user("hi"), content_pb2.Message(role=ASSISTANT, parts=[image(data=b"1 x")]), user("hi")],
            "messages[1].parts[0]",
        ),
    ],
)
@bounded
async def test_malformed_messages_are_refused_by_field(
    messages: list[content_pb2.Message], expected: str
) -> None:
    async with gateway_stack() as stack:
        error = await refusal(stack, chat_service_pb2.ChatRequest(messages=messages))
        assert field(error) == expected
        assert stack.vision.encoded == stack.llm.opened == []


@bounded
async def test_request_limits_are_named_with_numbers() -> None:
    limits = RequestLimits(max_messages=3, max_parts=4, max_text_bytes=20, max_visuals=2)
    async with gateway_stack(Config(QUICK, limits=limits)) as stack:
        for request, expected in (
            (chat_service_pb2.ChatRequest(messages=[user("a")] * 4), "messages: at most 3 messages, got 4"),
            (chat_request(*["a"] * 5), "messages[0].parts: at most 4 parts, got 5"),
            (chat_request("x" * 21), "messages: at most 20 bytes of text, got 21"),
            (
                chat_request(picture(1), picture(2), picture(3), "hi"),
                "messages: at most 2 pictures and films in a prompt, got 3",
            ),
        ):
            error = await refusal(stack, request)
            assert error.details() == expected


@pytest.mark.parametrize("name", ["", "a" * 129, "two\nlines", "nöt-ascii", "two words"])
@bounded
async def test_request_id_must_suit_every_tier(name: str) -> None:
    async with gateway_stack() as stack:
        error = await refusal(stack, chat_request(picture(1), "hi", request_id=name))
        assert field(error) == "request_id"
        assert stack.vision.encoded == stack.llm.opened == []


@bounded
async def test_unknown_media_id_is_not_found() -> None:
    async with gateway_stack() as stack:
        for name in ("0" * 64, "../../etc/passwd", ""):
            error = await refusal(stack, chat_request("what is", image(media_id=name)))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details().startswith("messages[0].parts[1].image.source.media_id: ")
            assert "passwd" not in error.details()


@bounded
async def test_bad_picture_is_named_by_its_place_in_the_request() -> None:
    async with gateway_stack() as stack:
        stack.vision.fail_at = 0
        error = await refusal(
            stack, chat_service_pb2.ChatRequest(messages=[user("a"), user("b", picture(1))])
        )
        assert field(error) == "messages[1].parts[1].image"
        info = detail(error, error_details_pb2.ErrorInfo())
        assert info.reason == BadMedia.reason


@bounded
async def test_empty_picture_is_refused_before_any_tier_sees_it() -> None:
    async with gateway_stack() as stack:
        error = await refusal(stack, chat_request("what is", image(data=b"")))
        assert field(error) == "messages[0].parts[1].image"
        assert stack.vision.encoded == []


@bounded
async def test_picture_over_the_size_limit_is_refused() -> None:
    config = Config(QUICK, media=MediaConfig(max_file_bytes=100, quota_bytes=1000))
    async with gateway_stack(config) as stack:
        error = await refusal(stack, chat_request("what is", image(data=b"x" * 101)))
        assert field(error) == "messages[0].parts[1].image"
        assert "100 bytes" in error.details()


@bounded
async def test_picture_options_are_named_as_the_client_wrote_them() -> None:
    async with gateway_stack() as stack:
        part = image(data=picture(2))
        part.image.options.max_tiles = 0
        error = await refusal(stack, chat_request("what is", part))
        assert field(error) == "messages[0].parts[1].image.options.max_tiles"


@bounded
async def test_plan_refuses_what_the_turn_would_by_the_same_field() -> None:
    async with gateway_stack() as stack:
        part = image(data=picture(2))
        part.image.options.max_tiles = 0
        film = content_pb2.Part(video=content_pb2.Video(source=part.image.source))
        for wrong, expected in (
            (part, "messages[0].parts[1].image.options.max_tiles"),
            (film, "messages[0].parts[1].video"),
        ):
            request = chat_service_pb2.PlanTurnRequest(messages=[user("what is", wrong)])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stack.chat.PlanTurn(request)
            assert field(caught.value) == expected
        assert caught.value.details().endswith("expected a film, found a picture (image/test)")


@pytest.mark.parametrize(
    ("named_by_llm", "public"),
    [
        ("open.sampling.top_p", "sampling.top_p"),
        ("open.messages", "messages"),
        ("open.messages[1].role", "messages[1].role"),
        ("open.messages[0].parts[2].visual", "messages[0].parts[2]"),
        ("open.prompt.visuals_first", "prompt.visuals_first"),
    ],
)
@bounded
async def test_fields_of_the_language_tier_become_fields_of_the_request(
    named_by_llm: str, public: str
) -> None:
    async with gateway_stack() as stack:
        stack.llm.refusal = InvalidField(named_by_llm, "is wrong")
        error = await refusal(stack, chat_request("hi"))
        assert field(error) == public
        assert error.details() == f"{public}: is wrong"


@bounded
async def test_context_overflow_keeps_its_numbers() -> None:
    async with gateway_stack() as stack:
        stack.llm.refusal = ContextTooLong(
            "open.messages", "9000 tokens, at most 8191 fit", metadata={"prompt_tokens": 9000, "limit": 8191}
        )
        error = await refusal(stack, chat_request("hi"))
        assert field(error) == "messages"
        info = detail(error, error_details_pb2.ErrorInfo())
        assert (info.reason, info.metadata["prompt_tokens"]) == (ContextTooLong.reason, "9000")


@bounded
async def test_overload_keeps_its_retry_delay() -> None:
    async with gateway_stack() as stack:
        stack.llm.refusal = Overloaded("the queue is full", retry_after_s=1.5)
        error = await refusal(stack, chat_request("hi"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds() == 1500


@bounded
async def test_language_error_in_the_middle_of_an_answer_ends_it() -> None:
    async with gateway_stack() as stack:
        stack.llm.failure = Unavailable("the model is going away")
        call = stack.chat.Chat(chat_request("one two three"))
        received = [(await call.read()).WhichOneof("event") for _ in range(2)]
        assert received == ["started", "delta"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@bounded
async def test_vision_error_in_the_middle_of_a_picture_ends_the_turn_on_both_tiers() -> None:
    async with gateway_stack() as stack:
        stack.vision.fail_at = 2
        stack.vision.failure = Unavailable("the encoder is going away")
        error = await refusal(stack, chat_request(picture(4), "hi"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await until(lambda: not stack.llm.active)
        assert stack.llm.cached == {}
        stack.vision.fail_at = None
        async for event in stack.chat.Chat(chat_request(picture(4), "still alive")):
            assert event.WhichOneof("event")


@pytest.mark.parametrize("tier", ["vision", "language"])
@bounded
async def test_lost_tier_is_named_without_its_address(tier: str) -> None:
    async with gateway_stack() as stack:
        lost = stack.vision_server if tier == "vision" else stack.llm_server
        assert lost is not None
        await lost.server.stop(0)
        error = await refusal(stack, chat_request(picture(1), "hi"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert f"{tier} service" in error.details()
        assert "127.0.0.1" not in error.details()
        conversation = await stack.chat.CreateConversation(chat_service_pb2.CreateConversationRequest())
        assert conversation.conversation.conversation_id


@bounded
async def test_text_still_works_while_vision_is_lost() -> None:
    async with gateway_stack() as stack:
        assert stack.vision_server is not None
        await stack.vision_server.server.stop(0)
        received = [event async for event in stack.chat.Chat(chat_request("hello"))]
        assert received[-1].HasField("result")
