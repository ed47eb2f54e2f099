"""Many independent questions in one call: results as they come, each failing alone."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from internvl.errors import Overloaded
from internvl.v1 import chat_service_pb2 as chat
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, until


def batch(*questions: chat.ChatRequest, **fields: Any) -> chat.BatchChatRequest:
    return chat.BatchChatRequest(requests=questions, **fields)


async def answers(stack: Stack, request: chat.BatchChatRequest) -> list[chat.BatchChatResponse]:
    return [response async for response in stack.chat.BatchChat(request)]


@bounded
async def test_every_question_gets_its_own_answer_and_progress_counts_them() -> None:
    async with gateway_stack() as stack:
        questions = [chat_request(picture(1, f"p{number}"), f"question {number}") for number in range(30)]
        received = await answers(stack, batch(*questions, max_concurrent=7))
        assert [(r.done, r.total) for r in received] == [(number, 30) for number in range(1, 31)]
        told = {r.index: r.result.message.parts[0].text for r in received}
        assert told == {number: f"question {number}" for number in range(30)}


@bounded
async def test_no_more_are_under_way_than_asked_for() -> None:
    async with gateway_stack() as stack:
        stack.llm.gate.clear()
        running = asyncio.create_task(answers(stack, batch(*[chat_request("hi")] * 9, max_concurrent=3)))
        await until(lambda: len(stack.llm.opened) == 3)  # a call is active a moment before it has opened
        assert stack.llm.active == 3
        stack.llm.gate.set()
        assert len(await running) == 9


@bounded
async def test_a_question_that_fails_does_so_alone() -> None:
    async with gateway_stack() as stack:
        bad = [
            chat.ChatRequest(),
            chat_request(b"no picture", "look"),
            chat_request("hi", conversation_id="c"),
            chat_request("hi", resumable=True),
        ]
        received = await answers(stack, batch(*bad, chat_request("fine")))
        errors = {r.index: r.error for r in received if r.HasField("error")}
        assert {number: error.field for number, error in errors.items()} == {
            0: "messages",
            1: "messages[0].parts[0].image",
            2: "conversation_id",
            3: "resumable",
        }
        assert {error.code for error in errors.values()} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
        assert errors[1].reason == "BAD_MEDIA"
        assert [r.result.message.parts[0].text for r in received if r.HasField("result")] == ["fine"]


@bounded
async def test_a_full_queue_is_waited_for() -> None:
    async with gateway_stack() as stack:
        stack.llm.refusal = Overloaded("the queue is full", retry_after_s=0.01)
        running = asyncio.create_task(answers(stack, batch(chat_request("patience"))))
        await until(lambda: len(stack.llm.opened) == 2)
        stack.llm.refusal = None
        (response,) = await running
        assert response.result.message.parts[0].text == "patience"


@bounded
async def test_cancel_ends_all_of_them() -> None:
    async with gateway_stack() as stack:
        stack.llm.gate.clear()
        call = stack.chat.BatchChat(batch(*[chat_request("hi")] * 20, max_concurrent=5))
        await until(lambda: stack.llm.active == 5)
        call.cancel()
        await asyncio.wait_for(stack.llm.idle.wait(), 5)
        assert len(stack.llm.opened) == 5


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (batch(), "requests"),
        (batch(*[chat.ChatRequest()] * 1001), "requests"),
        (batch(chat_request("hi"), max_concurrent=0), "max_concurrent"),
        (batch(chat_request("hi"), max_concurrent=65), "max_concurrent"),
    ],
)
@bounded
async def test_a_batch_out_of_bounds_is_refused_whole(request_: chat.BatchChatRequest, field: str) -> None:
    async with gateway_stack() as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answers(stack, request_)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(f"{field}: ")
        assert stack.llm.opened == []
