"""Chat completions over HTTP: what reaches the tiers, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from gateway.http.config import HttpConfig
from internvl.errors import (
    Overloaded,
)
from internvl.v1 import content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded, until
from tests.contract.http_door import (
    CHAT,
    HERE,
    MODEL,
    chat,
    client,
    data_url,
    http_stack,
    image,
    text,
)


@bounded
async def test_answer_is_whole_with_its_usage() -> None:
    async with http_stack() as stack, client(stack) as caller:
        answer = await caller.chat.completions.create(**chat("one two"))
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "one two",
        "stop",
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        10,
        2,
        12,
    )
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")


@bounded
async def test_stream_comes_word_by_word_and_ends_with_usage_and_done() -> None:
    async with http_stack() as stack:
        asked = chat("one two", stream=True, stream_options={"include_usage": True})
        reply = await stack.post(CHAT, asked)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    body = reply.body.decode()
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "one"},
        {"content": " two"},
        {},
    ]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 12)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1


@bounded
async def test_several_answers_and_log_probabilities() -> None:
    async with http_stack() as stack, client(stack) as caller:
        answer = await caller.chat.completions.create(**chat("hi you", n=2, logprobs=True, top_logprobs=1))
        streamed: dict[int, str] = {0: "", 1: ""}
        async for chunk in await caller.chat.completions.create(**chat("hi you", n=2, stream=True)):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
    assert [choice.message.content for choice in answer.choices] == ["hi you", "HI YOU"]
    assert streamed == {0: "hi you", 1: "HI YOU"}
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    first = logprobs.content[0]
    assert (first.token, first.bytes, first.logprob) == ("hi", [104, 105], -0.5)
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("other", -2.0)]


@bounded
async def test_sampling_reaches_the_language_tier() -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": -1,
        "stop": "end",
        "max_tokens": 16384,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"7": -100},
        "top_k": -1,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "null"}}},
        "user": "somebody",
        "metadata": {"a": "b"},
    }
    async with http_stack() as stack:
        reply = await stack.post(CHAT, chat("hi", **fields), x_request_id="mine-1")
    assert reply.status == 200, reply.body
    assert reply.headers["x-request-id"] == "mine-1"
    (opened,) = stack.tiers.llm.opened
    sampling = opened.sampling
    assert opened.request_id == "mine-1"
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.25, 2**64 - 1)
    assert (list(sampling.stop), sampling.max_tokens, dict(sampling.logit_bias)) == (
        ["end"],
        16384,
        {7: -100.0},
    )
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0, 0.125, 1.5)
    assert json.loads(sampling.grammar.json_schema) == {"type": "null"}


@bounded
async def test_messages_become_turns_that_alternate() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [text("yes?")]},
        {"role": "user", "content": "look"},
        {"role": "user", "content": "again"},
    ]
    async with http_stack() as stack:
        reply = await stack.post(CHAT, {"model": MODEL, "messages": messages})
    assert reply.status == 200, reply.body
    said = [
        (message.role, [part.text for part in message.parts])
        for message in stack.tiers.llm.opened[0].messages
    ]
    assert said == [
        (content_pb2.ROLE_SYSTEM, ["be brief"]),
        (content_pb2.ROLE_USER, ["hello"]),
        (content_pb2.ROLE_ASSISTANT, ["yes?"]),
        (content_pb2.ROLE_USER, ["look", "\n", "again"]),
    ]


@bounded
async def test_pictures_and_films_are_shown_with_their_options() -> None:
    shown = (
        text("compare"),
        image(data_url(picture(2, "a")), detail="low"),
        image(data_url(picture(1, "b"), "image/jpeg"), max_dynamic_patch=18, detail="low"),
        {"type": "video_url", "video_url": {"url": data_url(picture(3, "film"), "video/mp4"), "frames": 4}},
    )
    async with http_stack() as stack:
        reply = await stack.post(CHAT, chat(*shown))
        again = await stack.post(CHAT, chat(*shown))
    assert (reply.status, again.status) == (200, 200)
    layouts = [part.visual for part in stack.tiers.llm.opened[0].messages[0].parts if part.HasField("visual")]
    assert [layout.tiles for layout in layouts] == [2, 1, 3]
    assert sorted(stack.tiers.vision.encoded) == sorted(
        [(picture(2, "a"), 0), (picture(1, "b"), 0), (picture(3, "film"), 0)]
    ), "history sent again is encoded once"


@bounded
async def test_client_tries_again_where_the_server_is_full() -> None:
    async with http_stack() as stack, client(stack, max_retries=3) as caller:
        stack.tiers.llm.refusal = Overloaded("busy", retry_after_s=0.01)
        asking = asyncio.create_task(caller.chat.completions.create(**chat("hi")))
        await until(lambda: stack.tiers.llm.opened)
        stack.tiers.llm.refusal = None
        answer = await asking
    assert answer.choices[0].message.content == "hi"


@bounded
async def test_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.failure = Overloaded("no more room", retry_after_s=1.0)
        words: list[str | None] = []
        chunks = await caller.chat.completions.create(**chat("one two", stream=True))
        with pytest.raises(openai.APIError, match="no more room"):
            [words.append(chunk.choices[0].delta.content) async for chunk in chunks]
    assert "one" in words


@bounded
@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_ends_its_turn_on_every_tier(stream: bool) -> None:
    async with http_stack() as stack:
        stack.tiers.llm.gate.clear()
        asking = asyncio.create_task(stack.post(CHAT, chat("one two", stream=stream)))
        await until(lambda: stack.tiers.llm.active)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.wait_for(stack.tiers.llm.idle.wait(), 5)


@bounded
async def test_text_goes_on_while_the_vision_tier_is_away() -> None:
    async with http_stack() as stack:
        assert stack.tiers.vision_server is not None
        await stack.tiers.vision_server.server.stop(0)
        assert (await stack.post(CHAT, chat("hi"))).status == 200
        reply = await stack.post(CHAT, chat(text("hi"), image(data_url(picture(1)))))
    assert (reply.status, reply.error["message"]) == (503, "the vision service cannot be reached")
    assert "127.0.0.1" not in reply.body.decode()


@bounded
async def test_request_that_takes_too_long_is_ended() -> None:
    async with http_stack(HttpConfig(listen=HERE, request_timeout_s=0.2)) as stack:
        stack.tiers.llm.gate.clear()
        reply = await stack.post(CHAT, chat("hi"))
        await asyncio.wait_for(stack.tiers.llm.idle.wait(), 5)
    assert reply.status == 504


@bounded
async def test_unknown_model_is_not_found() -> None:
    async with http_stack() as stack, client(stack) as caller:
        assert [model.id async for model in caller.models.list()] == [MODEL]
        assert (await caller.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError):
            await caller.models.retrieve("gpt")
        with pytest.raises(openai.NotFoundError) as caught:
            await caller.chat.completions.create(**(chat("hi") | {"model": "gpt"}))
    assert caught.value.code == "model_not_found"
