"""`Idempotency-Key` over HTTP: asked twice, answered once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.config import Config
from internvl.errors import Overloaded
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2
from tests.contract.gateway_tiers import bounded, until
from tests.contract.http_door import CHAT, HERE, MODEL, HttpStack, chat, client, http_stack

KEY = {"Idempotency-Key": "order-17"}
RESPONSES = "/v1/responses"


def asked(words: str = "one two", **fields: Any) -> dict[str, Any]:
    """A request for a response, with the key."""
    return {"model": MODEL, "input": words, "extra_headers": KEY, **fields}


async def conversations(stack: HttpStack) -> int:
    """How many responses are kept."""
    listed = await stack.tiers.chat.ListConversations(chat_service_pb2.ListConversationsRequest())
    return len(listed.conversations)


@bounded
async def test_a_repeated_request_gets_the_answer_of_the_first() -> None:
    async with http_stack() as stack, client(stack) as caller:
        asked = chat("one two", temperature=1.0)
        first = await caller.chat.completions.create(**asked, extra_headers=KEY)
        again = await caller.chat.completions.create(**asked, extra_headers=KEY)
        assert len(stack.tiers.llm.opened) == 1
    assert again.choices == first.choices
    assert again.usage == first.usage


@bounded
async def test_a_stream_may_repeat_what_came_whole() -> None:
    async with http_stack() as stack, client(stack) as caller:
        first = await caller.chat.completions.create(**chat("one two"), extra_headers=KEY)
        stream = await caller.chat.completions.create(**chat("one two"), stream=True, extra_headers=KEY)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert len(stack.tiers.llm.opened) == 1
    assert text == first.choices[0].message.content


@bounded
async def test_a_key_that_comes_with_another_request_is_a_conflict() -> None:
    async with http_stack() as stack:
        assert (await stack.post(CHAT, chat("one"), **KEY)).status == 200
        reply = await stack.post(CHAT, chat("two"), **KEY)
        assert len(stack.tiers.llm.opened) == 1
    assert reply.status == 409
    assert "one" not in json.dumps(reply.error)


@bounded
async def test_a_key_that_cannot_be_used_is_named() -> None:
    async with http_stack() as stack:
        reply = await stack.post(CHAT, chat("one"), **{"Idempotency-Key": "a key with spaces"})
        assert not stack.tiers.llm.opened
    assert (reply.status, reply.error["param"]) == (400, "Idempotency-Key")


@bounded
async def test_a_repeated_response_is_the_first_one() -> None:
    wanted: Any = {"top_logprobs": 1, "include": ["message.output_text.logprobs"], "temperature": 1.0}
    async with http_stack() as stack, client(stack) as caller:
        first = await caller.responses.create(**asked(**wanted))
        again = await caller.responses.create(**asked(**wanted))
        stream = await caller.responses.create(**asked(**wanted, stream=True))
        last: Any = [event async for event in stream][-1]
        assert (again.id, last.response.id) == (first.id, first.id)
        assert again.output == first.output == last.response.output
        assert again.usage == first.usage == last.response.usage
        assert len(stack.tiers.llm.opened) == await conversations(stack) == 1
        await caller.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await caller.responses.create(**asked(**wanted))


@bounded
async def test_a_streamed_response_may_be_repeated_whole() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stream = await caller.responses.create(**asked(stream=True))
        last: Any = [event async for event in stream][-1]
        whole = await caller.responses.create(**asked())
        assert (whole.id, whole.output_text) == (last.response.id, "one two")
        assert len(stack.tiers.llm.opened) == await conversations(stack) == 1


@bounded
async def test_responses_asked_for_at_once_with_one_key_are_one(tmp_path: Path) -> None:
    gateway = Config(ServerConfig(HERE), store=str(tmp_path / "kept.db"))
    async with (
        http_stack(gateway=gateway) as stack,
        http_stack(gateway=gateway) as other,
        client(stack) as caller,
        client(other) as elsewhere,
    ):
        stack.tiers.llm.gate.clear()
        other.tiers.llm.gate.clear()
        both = [asyncio.create_task(one.responses.create(**asked())) for one in (caller, elsewhere)]
        await until(lambda: stack.tiers.llm.active + other.tiers.llm.active == 1)
        stack.tiers.llm.gate.set()
        other.tiers.llm.gate.set()
        first, second = await asyncio.gather(*both)
        assert (first.id, first.output_text) == (second.id, second.output_text)
        assert len(stack.tiers.llm.opened) + len(other.tiers.llm.opened) == 1


@bounded
async def test_a_repeated_background_response_is_looked_up() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.gate.clear()
        first = await caller.responses.create(**asked(background=True))
        again = await caller.responses.create(**asked(background=True))
        assert (first.id, first.status) == (again.id, again.status)
        stack.tiers.llm.gate.set()
        async with asyncio.timeout(10):
            while (again := await caller.responses.create(**asked(background=True))).status != "completed":
                pass
        assert (again.id, again.output_text) == (first.id, "one two")
        assert len(stack.tiers.llm.opened) == await conversations(stack) == 1


@bounded
async def test_a_response_that_is_not_kept_is_computed_once() -> None:
    async with http_stack() as stack, client(stack) as caller:
        first = await caller.responses.create(**asked(store=False))
        again = await caller.responses.create(**asked(store=False))
        assert again.output_text == first.output_text == "one two"
        assert (len(stack.tiers.llm.opened), await conversations(stack)) == (1, 0)


@pytest.mark.parametrize(
    "other", [{"input": "else"}, {"instructions": "be rude"}, {"background": True}, {"temperature": 2}]
)
@bounded
async def test_a_key_that_comes_with_another_response_is_a_conflict(other: dict[str, Any]) -> None:
    async with http_stack() as stack, client(stack) as caller:
        await caller.responses.create(**asked())
        with pytest.raises(openai.ConflictError):
            await caller.responses.create(**asked() | other)
        # The same key for a chat completion is another one.
        await caller.chat.completions.create(**chat("hi"), extra_headers=KEY)
        assert len(stack.tiers.llm.opened) == 2


@pytest.mark.parametrize("stream", [False, True])
@bounded
async def test_the_key_of_a_response_that_fails_is_free_again(stream: bool) -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.refusal = Overloaded("the queue is full", retry_after_s=1.0)
        with pytest.raises(openai.RateLimitError):
            await caller.responses.create(**asked("one", stream=stream))
        stack.tiers.llm.refusal = None
        assert await conversations(stack) == 0
        assert (await caller.responses.create(**asked("two"))).output_text == "two"


@bounded
async def test_the_key_of_a_stream_that_breaks_off_is_free_again() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.failure = Overloaded("no more room", retry_after_s=1.0)
        stream = await caller.responses.create(**asked(stream=True))
        assert [event.type async for event in stream][-1] == "response.failed"
        stack.tiers.llm.failure = None
        assert (await caller.responses.create(**asked())).output_text == "one two"
        assert await conversations(stack) == 1


@bounded
async def test_a_key_of_a_response_that_cannot_be_used_is_named() -> None:
    async with http_stack() as stack:
        request = {"model": MODEL, "input": "hi"}
        for fields in ({}, {"store": False}, {"background": True}):
            reply = await stack.post(RESPONSES, request | fields, **{"Idempotency-Key": "a key with spaces"})
            assert (reply.status, reply.error["param"]) == (400, "Idempotency-Key")
        assert await conversations(stack) == 0
        assert not stack.tiers.llm.opened
