"""Bodies of HTTP requests: no JSON, too large, too slow, too many."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import openai
import pytest

from gateway.http.config import BodyLimits, HttpConfig
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded, until
from tests.contract.http_door import CHAT, HERE, MODEL, chat, client, data_url, http_stack, image, text

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


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": [' + b"{}," * 3_000_000 + b"1]}",
        b'{"a": [' + b"[1]," * 2_000_000 + b"1]}",
        b'{"' + b"\\\\" * 40_000 + b'": [' + b'"\\"a",' * 1_000_000 + b"1]}",
    ],
    ids=["objects", "arrays", "texts"],
)
@bounded
async def test_body_of_too_many_values_is_refused_before_they_are_made(body: bytes) -> None:
    """Each of its millions of values would take some ten times its bytes."""
    async with http_stack() as stack:
        tracemalloc.start()
        try:
            reply = await stack.post(CHAT, body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (reply.status, reply.error["param"]) == (400, "body")
    assert "values" in reply.error["message"]
    assert peak < 5 * len(body)


@bounded
async def test_texts_may_hold_whatever_looks_like_values() -> None:
    """Many pieces, each cut at another place within the escapes."""
    async with http_stack() as stack:
        for backslashes in range(5):
            words = ("\\" * backslashes + '"[,{' + "x" * backslashes) * 100_000
            reply = await stack.post(CHAT, chat("hi", user=words))
            assert reply.status == 200


@bounded
async def test_as_many_values_as_are_promised_are_taken() -> None:
    async with http_stack() as stack:
        for values, problem in ((199_000, "is not a field of this request"), (200_100, "values")):
            reply = await stack.post(CHAT, {**chat("hi"), "a": [{}] * values})
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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@bounded
async def test_body_whose_pictures_are_stored_makes_room_while_it_is_answered(
    path: str, stream: bool
) -> None:
    url = data_url(picture(1, "x" * 500))
    request: dict[str, Any] = {"model": MODEL, "stream": stream}
    if path == CHAT:
        request |= chat(text("look"), image(url))
    else:
        parts = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": url}]
        request["input"] = [{"role": "user", "content": parts}]
    config = HttpConfig(listen=HERE, body=BodyLimits(max_bytes=1000, max_total_bytes=1500))
    async with http_stack(config) as stack:
        stack.tiers.llm.gate.clear()
        asked = []
        for number in range(1, 4):
            asked.append(asyncio.create_task(stack.post(path, request)))
            await until(lambda number=number: stack.tiers.llm.active == number or asked[-1].done())
        assert stack.app.held_bytes == 0
        stack.tiers.llm.gate.set()
        assert [reply.status for reply in await asyncio.gather(*asked)] == [200] * 3


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
