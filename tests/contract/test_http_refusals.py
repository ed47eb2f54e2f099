"""What the HTTP door refuses, and what a tier refused, each by the name that the client gave it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from internvl.errors import (
    ContextTooLong,
    DeadlineExceeded,
    InternalError,
    InvalidField,
    Overloaded,
    Unavailable,
)
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded
from tests.contract.http_door import CHAT, MODEL, chat, client, data_url, http_stack, image, text

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


@bounded
async def test_error_about_all_of_a_message_names_its_content() -> None:
    async with http_stack() as stack:
        stack.tiers.llm.refusal = InvalidField("open.messages[0].parts", "must hold something")
        for parts in ([""], [text(""), text("")]):
            reply = await stack.post(CHAT, chat(*parts))
            assert reply.error["param"] == "messages[0].content"
        for asked in ("", [{"role": "user", "content": ""}]):
            reply = await stack.post("/v1/responses", {"model": MODEL, "input": asked, "store": False})
            assert reply.error["param"] == ("input[0].content" if asked else "input")
        stack.tiers.llm.refusal = None
        many = [{"role": "user", "content": [text("x")] * 100}] * 2
        reply = await stack.post(CHAT, chat("") | {"messages": many})
        assert reply.error["message"] == "messages[0].content: at most 128 parts, got 201"


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
