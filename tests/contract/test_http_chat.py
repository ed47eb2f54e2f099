"""Chat completions over HTTP: what reaches the tiers, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import openai
import pytest

from gateway.http.config import BodyLimits, HttpConfig
from internvl.errors import (
    ContextTooLong,
    DeadlineExceeded,
    InternalError,
    InvalidField,
    Overloaded,
    Unavailable,
)
from internvl.v1 import content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded, until
from tests.contract.http_door import HERE, MODEL, HttpStack, chat, http_stack, image, text

CHAT = "/v1/chat/completions"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def client(stack: HttpStack, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=stack.base_url, api_key="none", **{"max_retries": 0, **options})


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


USER = {"role": "user", "content": "x"}
REFUSED_FIELDS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "invalid_field"),
    ({"max_tokenz": 5}, "max_tokenz", "unknown_parameter"),
    ({"user\nname": 5}, "?", "unknown_parameter"),
    ({"stream": "yes"}, "stream", "invalid_field"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_field"),
    ({"n": 17}, "n", "invalid_field"),
    ({"n": True}, "n", "invalid_field"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_field"),
    ({"seed": 1.5}, "seed", "invalid_field"),
    ({"temperature": "hot"}, "temperature", "invalid_field"),
    ({"max_tokens": -1}, "max_tokens", "invalid_field"),
    ({"stop": [1]}, "stop", "invalid_field"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_field"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_field"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_field"),
    ({"messages": []}, "messages", "invalid_field"),
    ({"messages": "hi"}, "messages", "invalid_field"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_parameter"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_field"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_field"),
    ({"messages": [USER, {"role": "assistant", "content": "y"}]}, "messages[1].role", "invalid_field"),
    ({"messages": [USER, {"role": "system", "content": "y"}]}, "messages[1].role", "invalid_field"),
)


@bounded
async def test_field_is_refused_by_name() -> None:
    async with http_stack() as stack:
        for fields, param, code in REFUSED_FIELDS:
            reply = await stack.post(CHAT, chat("hi") | fields)
            assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
            assert reply.error["type"] == "invalid_request_error"
        assert not stack.tiers.llm.opened


REFUSED_PARTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"type": "input_audio", "input_audio": {}}, ".type"),
    ({"type": "file", "file": {}}, ".type"),
    (image("data:image/png;base64,!!!!"), ".image_url"),
    (image("data:image/png;base64,AAA"), ".image_url"),
    (image("data:image/png;base64,AA==AAAA"), ".image_url"),
    (image("data:image/png,plain"), ".image_url"),
    (image("data:;base64,"), ".image_url"),
    (image(data_url(b"x"), detail="extreme"), ".image_url.detail"),
    (image(data_url(b"x"), zoom=2), ".image_url.zoom"),
    (
        image(data_url(b"x"), max_dynamic_patch="many"),
        ".image_url.max_dynamic_patch",
    ),
    (image("file:///etc/passwd"), ".image_url"),
)


@bounded
async def test_part_is_refused_by_name() -> None:
    async with http_stack() as stack:
        for part, member in REFUSED_PARTS:
            reply = await stack.post(CHAT, chat(text("hi"), part))
            assert reply.status in (400, 403)
            assert reply.error["message"].partition(":")[0] == f"messages[0].content[1]{member}"
            assert "passwd" not in reply.error["message"]
        assert not stack.tiers.llm.opened


@bounded
async def test_error_of_a_tier_names_the_clients_own_field() -> None:
    async with http_stack() as stack:
        damaged = chat(text("look"), image(data_url(picture(3, "damaged"))))
        stack.tiers.vision.fail_at = 0
        reply = await stack.post(CHAT, damaged)
        assert (reply.status, reply.error["param"]) == (400, "messages[0].content[1].image_url")
        assert reply.error["code"] == "bad_media"
        for theirs, ours in (
            ("open.sampling.max_tokens", "max_completion_tokens"),
            ("open.sampling.grammar.json_schema", "response_format.json_schema.schema"),
        ):
            stack.tiers.llm.refusal = InvalidField(theirs, "will not do")
            form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
            reply = await stack.post(CHAT, chat("hi", max_completion_tokens=3, response_format=form))
            assert (reply.status, reply.error["param"]) == (400, ours)
            assert reply.error["message"] == f"{ours}: will not do"


@pytest.mark.parametrize(
    ("error", "status", "kind", "raised"),
    [
        (ContextTooLong("open.messages", "too long"), 400, "invalid_request_error", openai.BadRequestError),
        (Overloaded("busy", retry_after_s=2.5), 429, "rate_limit_error", openai.RateLimitError),
        (Unavailable("away"), 503, "server_error", openai.InternalServerError),
        (DeadlineExceeded("late"), 504, "server_error", openai.InternalServerError),
        (InternalError("broken"), 500, "server_error", openai.InternalServerError),
    ],
)
def test_status_and_class_of_an_error(error: Any, status: int, kind: str, raised: type[Exception]) -> None:
    @bounded
    async def run() -> None:
        async with http_stack() as stack, client(stack) as caller:
            stack.tiers.llm.refusal = error
            with pytest.raises(raised) as caught:
                await caller.chat.completions.create(**chat("hi"))
            reply = await stack.post(CHAT, chat("hi"))
        assert isinstance(caught.value, openai.APIStatusError)
        assert (reply.status, reply.error["type"]) == (status, kind)
        if status == 429:
            assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("3", "2500")
        if isinstance(error, ContextTooLong):
            assert (reply.error["code"], reply.error["param"]) == ("context_length_exceeded", "messages")

    run()


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


NOT_JSON = (
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"[]", "object"),
    (b'{"a": NaN}', "JSON"),
    (b'{"model": "\xff"}', "JSON"),
    (b'{"model": "\\ud800"}', "surrogate"),
    (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "levels"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON"),
    (b'{"a": [' + b"1," * 300_000 + b"1]}", "values"),
    (b'{"a": ' + b"9" * 5000 + b"}", "JSON"),
)


@bounded
async def test_body_that_is_no_plain_json_is_refused() -> None:
    async with http_stack() as stack:
        for body, problem in NOT_JSON:
            reply = await stack.post(CHAT, body)
            assert (reply.status, reply.error["param"]) == (400, "body")
            assert problem in reply.error["message"]


@bounded
async def test_large_body_is_refused_while_it_arrives() -> None:
    config = HttpConfig(listen=HERE, body=BodyLimits(max_bytes=1000))
    async with http_stack(config) as stack, client(stack) as caller:
        announced = await stack.post(CHAT, b"x" * 1001)
        chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n"
        chunked += (
            b"content-type: application/json\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n0\r\n\r\n"
        )
        unannounced = await stack.send(chunked)
        with pytest.raises(openai.APIStatusError) as caught:
            await caller.chat.completions.create(**chat("x" * 5_000_000))
    assert (announced.status, unannounced.status, caught.value.status_code) == (413, 413, 413)
    assert "1000 bytes" in announced.error["message"]


@bounded
async def test_bodies_together_are_bounded() -> None:
    config = HttpConfig(listen=HERE, body=BodyLimits(max_bytes=1000, max_total_bytes=1500))
    async with http_stack(config) as stack:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(head + b"content-length: 1000\r\n\r\n" + b" " * 999)
        await until(lambda: stack.app.held_bytes >= 999)
        refused = await stack.post(CHAT, b" " * 900)
        writer.close()
        await until(lambda: not stack.app.held_bytes)
        taken = await stack.post(CHAT, chat("hi"))
    assert (refused.status, taken.status) == (429, 200)
    assert "retry-after" in refused.headers


@bounded
async def test_body_that_does_not_come_is_not_waited_for() -> None:
    config = HttpConfig(listen=HERE, body=BodyLimits(timeout_s=0.2))
    async with http_stack(config) as stack:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
        reply = await stack.send(head + b"content-length: 1000\r\n\r\n{")
    assert reply.status == 408


@bounded
async def test_only_json_is_read() -> None:
    async with http_stack() as stack:
        reply = await stack.post(CHAT, chat("hi"), **{"content-type": "text/plain"})
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")
