"""Several answers, log-probabilities, forms and replay bundles, as both clients ask for and tell them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from internvl_client import Answer, AsyncClient, Client, Delta, InvalidRequest, TokenLogprob
from tests.contract.gateway_tiers import bounded, gateway_stack

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}}


async def both(address: str, *args: Any, **options: Any) -> list[Answer]:
    """The answer as each client tells it."""
    with Client(address) as blocking:
        told = await asyncio.to_thread(lambda: blocking.chat(*args, **options).result())
    async with AsyncClient(address) as client:
        return [told, await client.chat(*args, **options).result()]


@bounded
async def test_several_answers_add_up_one_by_one() -> None:
    async with gateway_stack() as stack:
        for answer in await both(stack.address, "one two", n=3):
            assert [choice.text for choice in answer.choices] == ["one two", "ONE TWO", "ONE TWO"]
            assert [choice.token_ids for choice in answer.choices] == [(0, 1)] * 3
            assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 3
            assert (answer.text, answer.token_ids) == ("one two", (0, 1))


@bounded
async def test_iterating_gives_the_first_answer_and_events_give_all() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        stream = client.chat("one two", n=2)
        assert [text async for text in stream] == ["one", " two"]
        assert stream.text == "one two"
        deltas = [event async for event in client.chat("one two", n=2).events() if isinstance(event, Delta)]
        assert [(delta.choice, delta.text) for delta in deltas] == [
            (0, "one"),
            (1, "ONE"),
            (0, " two"),
            (1, " TWO"),
        ]
        with Client(stack.address) as blocking:
            assert await asyncio.to_thread(lambda: list(blocking.chat("one two", n=2))) == ["one", " two"]


@bounded
async def test_log_probabilities_come_with_their_tokens() -> None:
    async with gateway_stack() as stack:
        for answer in await both(stack.address, "one two", logprobs=1):
            other = TokenLogprob(99, -2.0, b"other")
            assert answer.logprobs == (
                TokenLogprob(0, -0.5, b"one", (other,)),
                TokenLogprob(1, -0.5, b" two", (other,)),
            )
        for answer in await both(stack.address, "one two"):
            assert answer.logprobs == ()


@bounded
async def test_forms_and_biases_reach_the_language_tier() -> None:
    async with gateway_stack() as stack:
        await both(stack.address, "hi", json_schema=SCHEMA, logit_bias={7: -1.5}, priority=4)
        await both(stack.address, "hi", json_schema=json.dumps(SCHEMA))
        await both(stack.address, "hi", regex="[0-9]+")
        asked, as_text, regex = (stack.llm.opened[index].sampling for index in (1, 3, 5))
        assert json.loads(asked.grammar.json_schema) == json.loads(as_text.grammar.json_schema) == SCHEMA
        assert dict(asked.logit_bias) == {7: -1.5}
        assert [opened.priority for opened in stack.llm.opened] == [4, 4, 0, 0, 0, 0]
        assert regex.grammar.regex == "[0-9]+"


@bounded
async def test_a_replay_bundle_is_the_bytes_that_the_server_made() -> None:
    async with gateway_stack() as stack:
        for answer in await both(stack.address, "hi", replay_bundle=True):
            assert answer.replay_bundle == b'{"version": 1}'
        for answer in await both(stack.address, "hi"):
            assert answer.replay_bundle is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"json_schema": {}, "regex": "a"}, "sampling.grammar"),
        ({"json_schema": 3.5j}, "sampling.json_schema"),
        ({"regex": 5}, "sampling.regex"),
        ({"logit_bias": [1, 2]}, "sampling.logit_bias"),
        ({"n": -1}, "sampling.n"),
    ],
)
def test_values_that_their_types_cannot_hold_name_the_option(options: dict[str, Any], field: str) -> None:
    with Client("127.0.0.1:9") as client, pytest.raises(InvalidRequest) as caught:
        client.chat("hi", **options)
    assert caught.value.field == field
