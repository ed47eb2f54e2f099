"""`Idempotency-Key` over HTTP: asked twice, answered once."""

from __future__ import annotations

import json

from tests.contract.gateway_tiers import bounded
from tests.contract.http_door import CHAT, chat, client, http_stack

KEY = {"Idempotency-Key": "order-17"}


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
