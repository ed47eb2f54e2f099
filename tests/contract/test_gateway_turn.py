"""The data path of a turn, over real gRPC, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, until


async def events(stack: Stack, request: chat_service_pb2.ChatRequest, **options: Any) -> list[Any]:
    return [event async for event in stack.chat.Chat(request, **options)]


def kinds(received: list[Any]) -> list[str]:
    return [event.WhichOneof("event") for event in received]


def answer(received: list[Any]) -> str:
    return "".join(event.delta.text for event in received)


async def settled(stack: Stack, count: Callable[[], int], least: int) -> int:
    """The count, once it is that large and grows no more, though other turns come and go on the same loop."""
    await until(lambda: count() >= least)
    size = 0
    while size != count():
        size = count()
        for _ in range(20):
            assert answer(await events(stack, chat_request("meanwhile"))) == "meanwhile"
    return size


@bounded
async def test_text_alone_needs_no_vision() -> None:
    async with gateway_stack() as stack:
        received = await events(stack, chat_request("hello there"))
        assert kinds(received) == ["started", "delta", "delta", "result"]
        assert answer(received) == "hello there"
        assert stack.vision.encoded == []


@bounded
async def test_tiles_cross_the_gateway_as_the_bytes_they_are() -> None:
    async with gateway_stack() as stack:
        received = await events(stack, chat_request(picture(3, "a"), picture(2, "b"), "compare them"))
        assert len(stack.vision.frames) == 5
        assert sorted(stack.vision.frames) == sorted(stack.llm.received)
        first = content_pb2.VisualLayout(visual_id=received[0].started.layouts[0].visual_id)
        sent = [llm_service_pb2.GenerateRequest.FromString(frame).tile for frame in stack.llm.received]
        assert [tile.index for tile in sent] == [0, 1, 2, 0, 1]
        assert [tile.visual_id == first.visual_id for tile in sent] == [True] * 3 + [False] * 2


@bounded
async def test_progress_counts_every_tile_of_every_picture() -> None:
    async with gateway_stack() as stack:
        received = await events(stack, chat_request(picture(2, "a"), picture(1, "b"), "go"))
        progress = [event.encoding for event in received if event.HasField("encoding")]
        assert [(p.visual_index, p.tiles_done, p.tiles_total) for p in progress] == [
            (0, 1, 2),
            (0, 2, 2),
            (1, 1, 1),
        ]
        assert kinds(received)[0] == "started"


@bounded
async def test_result_tells_the_whole_answer_and_what_it_took() -> None:
    async with gateway_stack() as stack:
        result = (await events(stack, chat_request("one two three")))[-1].result
        assert result.message == content_pb2.Message(
            role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(text="one two three")]
        )
        assert result.finish_reason == llm_service_pb2.FINISH_REASON_STOP
        assert result.usage.completion_tokens == 3
        assert result.timings.prefill_ms == 1.0
        assert 0 < result.time_to_first_token_ms < 30_000
        assert not result.HasField("conversation_version")


@bounded
async def test_known_picture_is_neither_encoded_nor_shipped_again() -> None:
    async with gateway_stack() as stack:
        await events(stack, chat_request(picture(3), "first"))
        received = await events(stack, chat_request(picture(3), "second"))
        assert kinds(received) == ["started", "delta", "result"]
        assert len(stack.vision.encoded) == 1
        assert len(stack.llm.received) == 3
        assert received[0].started.cached_tokens == 48


@bounded
async def test_only_missing_tiles_are_encoded_again() -> None:
    async with gateway_stack() as stack:
        await events(stack, chat_request(picture(4), "first"))
        name = next(iter(stack.llm.cached))
        stack.llm.cached[name] = 3
        received = await events(stack, chat_request(picture(4), "second"))
        assert [first for _, first in stack.vision.encoded] == [0, 3]
        assert stack.llm.received[4:] == stack.vision.frames[4:]
        assert [
            (e.encoding.tiles_done, e.encoding.tiles_total) for e in received if e.HasField("encoding")
        ] == [(4, 4)]


@bounded
async def test_new_picture_skips_the_tiles_that_the_language_tier_holds() -> None:
    """A gateway that was restarted does not know the layout, but the language tier has the start of it."""
    async with gateway_stack() as stack:
        await events(stack, chat_request(picture(4), "first"))
        name = next(iter(stack.llm.cached))
        before = len(stack.llm.received)
    async with gateway_stack() as restarted:
        restarted.llm.cached[name] = 3
        await events(restarted, chat_request(picture(4), "second"))
        sent = [llm_service_pb2.GenerateRequest.FromString(frame).tile for frame in restarted.llm.received]
        assert before == 4
        assert [tile.index for tile in sent] == [3]


@bounded
async def test_encode_of_what_is_not_needed_is_cancelled() -> None:
    async with gateway_stack() as stack:
        await events(stack, chat_request(picture(50), "first"))
        cached = dict(stack.llm.cached)
    async with gateway_stack() as restarted:
        restarted.llm.cached.update(cached)
        restarted.vision.gate.clear()
        received = await events(restarted, chat_request(picture(50), "second"))
        assert kinds(received) == ["started", "delta", "result"]
        await asyncio.wait_for(restarted.vision.idle.wait(), 10)


@bounded
async def test_same_picture_twice_is_encoded_once() -> None:
    async with gateway_stack() as stack:
        received = await events(stack, chat_request(picture(2), picture(2), "same"))
        assert len(stack.vision.encoded) == 1
        assert len(stack.llm.received) == 2
        assert len(received[0].started.layouts) == 2


@bounded
async def test_other_options_are_another_picture() -> None:
    async with gateway_stack() as stack:
        source = content_pb2.MediaSource(data=picture(2))
        for tiles in (1, 6):
            image = content_pb2.Image(source=source, options=content_pb2.ImageOptions(max_tiles=tiles))
            await events(stack, chat_request(content_pb2.Part(image=image), "look"))
        assert len(stack.vision.encoded) == 2


@bounded
async def test_words_flow_while_vision_still_encodes_the_next_turn() -> None:
    async with gateway_stack() as stack:
        stack.vision.gate.clear()
        slow = asyncio.create_task(events(stack, chat_request(picture(2), "slow")))
        await until(lambda: stack.vision.active)
        assert answer(await events(stack, chat_request("quick one"))) == "quick one"
        stack.vision.gate.set()
        assert answer(await slow) == "slow"


@bounded
async def test_tiles_wait_in_the_vision_tier_while_the_language_tier_takes_none() -> None:
    """31 MiB of tiles are ready; only what flow control lets through leaves the vision tier."""
    async with gateway_stack() as stack:
        stack.llm.reading.clear()
        call = stack.chat.Chat(chat_request(picture(500), "go"))
        assert (await anext(aiter(call))).HasField("started")
        moved = await settled(stack, lambda: len(stack.vision.frames), least=50)
        assert moved < 300
        stack.llm.reading.set()
        assert [event.WhichOneof("event") async for event in call][-1] == "result"
        assert len(stack.llm.received) == 500


@bounded
async def test_replaced_encoder_is_noticed_and_the_turn_starts_over() -> None:
    async with gateway_stack() as stack:
        shown = (picture(2, "a"), picture(1, "b"))
        await events(stack, chat_request(*shown, "first"))
        stack.vision.model = "encoder-2"
        stack.llm.cached.clear()
        received = await events(stack, chat_request(*shown, "second"))
        assert kinds(received) == ["started", "encoding", "encoding", "encoding", "delta", "result"]
        parts = stack.llm.opened[-1].messages[0].parts
        assert [part.visual for part in parts[:2]] == list(received[0].started.layouts)
        assert len(stack.llm.opened) == 3


@bounded
async def test_sampling_options_and_request_id_reach_the_language_tier_unread() -> None:
    async with gateway_stack() as stack:
        sampling = llm_service_pb2.SamplingParams(temperature=0.0, top_k=0, seed=7, stop=["x"])
        options = llm_service_pb2.PromptOptions(visuals_first=False)
        received = await events(
            stack, chat_request("hi", sampling=sampling, prompt=options, request_id="my-request")
        )
        opened = stack.llm.opened[0]
        assert opened.sampling == sampling
        assert opened.sampling.HasField("temperature")
        assert opened.prompt == options
        assert opened.request_id == received[0].started.request_id == "my-request"


@bounded
@pytest.mark.parametrize("moment", ["encoding", "answering"])
async def test_client_cancel_reaches_both_tiers(moment: str) -> None:
    async with gateway_stack() as stack:
        held = stack.vision if moment == "encoding" else stack.llm
        held.gate.clear()
        call = stack.chat.Chat(chat_request(picture(40), "hello world"))
        if moment == "encoding":
            await until(lambda: stack.vision.active)
        else:
            await until(lambda: len(stack.llm.received) == 40)
        call.cancel()
        await asyncio.wait_for(stack.vision.idle.wait(), 5)
        await until(lambda: not stack.llm.active)


@bounded
async def test_client_that_leaves_while_its_file_is_on_its_way_ends_the_encode() -> None:
    async with gateway_stack() as stack:
        stack.vision.reading.clear()
        call = stack.chat.Chat(chat_request(picture(1, "x" * (6 * 2**20)), "look"))
        await until(lambda: stack.vision.active)
        call.cancel()
        await asyncio.wait_for(stack.vision.idle.wait(), 5)
        assert stack.vision.encoded == []


@bounded
async def test_deadline_reaches_both_tiers() -> None:
    async with gateway_stack() as stack:
        stack.vision.gate.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await events(stack, chat_request(picture(2), "late"), timeout=2.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert stack.llm.time_left_s is not None
        assert 0 < stack.llm.time_left_s <= 2.0
        await asyncio.wait_for(stack.vision.idle.wait(), 5)
        await until(lambda: not stack.llm.active)


@bounded
async def test_many_turns_at_once_keep_their_pictures_apart() -> None:
    async with gateway_stack() as stack:
        texts = [f"answer number {number}" for number in range(12)]
        turns = [
            events(stack, chat_request(picture(number % 3 + 1, f"p{number % 5}"), text))
            for number, text in enumerate(texts)
        ]
        received = await asyncio.gather(*turns)
        assert [answer(each) for each in received] == texts


@bounded
async def test_server_info_joins_both_tiers() -> None:
    async with gateway_stack() as stack:
        info = await stack.chat.ServerInfo(chat_service_pb2.ServerInfoRequest())
        assert (info.llm.model_name, info.vision.model_name) == ("parrot", "encoder-1")
