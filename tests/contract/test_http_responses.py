"""`/v1/responses` over HTTP, as the openai client uses it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.config import Config
from gateway.http.config import HttpConfig
from gateway.turns.live_turns import TurnConfig
from internvl.errors import InvalidField, Overloaded
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2, content_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded, until
from tests.contract.http_door import HERE, MODEL, http_stack
from tests.contract.test_http_chat import client, data_url

RESPONSES = "/v1/responses"


def said(opened: Any) -> list[tuple[int, str]]:
    return [(message.role, "".join(part.text for part in message.parts)) for message in opened.messages]


async def ended(caller: openai.AsyncOpenAI, response_id: str) -> Any:
    """The response, once it has ended."""
    async with asyncio.timeout(10):
        while True:
            response = await caller.responses.retrieve(response_id)
            if response.status != "in_progress":
                return response


SYSTEM, USER, ASSISTANT = content_pb2.ROLE_SYSTEM, content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT


@bounded
async def test_response_is_answered_kept_and_forgotten() -> None:
    async with http_stack() as stack, client(stack) as caller:
        response = await caller.responses.create(
            model=MODEL, input="one two", instructions="be brief", metadata={"a": "b"}, max_output_tokens=9
        )
        assert (response.output_text, response.status, response.metadata) == (
            "one two",
            "completed",
            {"a": "b"},
        )
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (10, 2)
        assert said(stack.tiers.llm.opened[0]) == [(SYSTEM, "be brief"), (USER, "one two")]
        kept = await caller.responses.retrieve(response.id)
        assert (kept.id, kept.output_text, kept.status) == (response.id, "one two", "completed")
        assert kept.usage == response.usage
        items = await caller.responses.input_items.list(response.id, order="asc")
        assert [item.role for item in items.data] == ["system", "user"]  # type: ignore[union-attr]
        await caller.responses.delete(response.id)
        for call in (caller.responses.retrieve, caller.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(response.id)


@pytest.mark.parametrize(
    ("config", "kept_s"),
    [
        (HttpConfig(HERE), 30 * 24 * 3600),
        (HttpConfig(HERE, response_ttl_s=60.0), 60),
        (HttpConfig(HERE, response_ttl_s=None), 0),
    ],
)
@bounded
async def test_response_is_kept_for_a_time(config: HttpConfig, kept_s: int) -> None:
    async with http_stack(config) as stack, client(stack) as caller:
        await caller.responses.create(model=MODEL, input="hi")
        listed = await stack.tiers.chat.ListConversations(chat_service_pb2.ListConversationsRequest())
        (head,) = listed.conversations
        assert head.expire_time.ToSeconds() == (head.update_time.ToSeconds() + kept_s if kept_s else 0)


@bounded
async def test_next_response_goes_on_behind_any_earlier_one() -> None:
    shown: Any = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": data_url(picture(2)), "detail": "low"},
    ]
    async with http_stack() as stack, client(stack) as caller:
        first = await caller.responses.create(
            model=MODEL, input=[{"role": "user", "content": shown}], instructions="old"
        )
        second = await caller.responses.create(model=MODEL, input="and", previous_response_id=first.id)
        third = await caller.responses.create(
            model=MODEL, input="or", previous_response_id=first.id, instructions="new", store=False
        )
        await caller.responses.delete(first.id)
        fourth = await caller.responses.create(model=MODEL, input="so", previous_response_id=second.id)
        with pytest.raises(openai.NotFoundError):
            await caller.responses.retrieve(third.id)
    before = [(USER, "look"), (ASSISTANT, "look")]
    _, second_said, third_said, fourth_said = map(said, stack.tiers.llm.opened)
    assert second_said == [*before, (USER, "and")], "instructions are not carried over"
    assert third_said == [(SYSTEM, "new"), *before, (USER, "or")]
    assert fourth_said == [*before, (USER, "and"), (ASSISTANT, "and"), (USER, "so")]
    assert (second.previous_response_id, fourth.output_text) == (first.id, "so")
    assert len(stack.tiers.vision.encoded) == 1, "what is kept is not encoded again"


@bounded
async def test_stream_has_the_events_of_openai() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stream = await caller.responses.create(model=MODEL, input="one two", stream=True)
        events = [event async for event in stream]
        last: Any = events[-1]
        kept = await caller.responses.retrieve(last.response.id)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    assert last.response.output_text == kept.output_text == "one two"


@bounded
async def test_failure_in_the_middle_of_a_stream_is_an_event() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.failure = Overloaded("no more room", retry_after_s=1.0)
        stream = await caller.responses.create(model=MODEL, input="one two", stream=True)
        last: Any = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert (last.response.status, last.response.error.message) == ("failed", "no more room")


@bounded
async def test_log_probabilities_and_form() -> None:
    form: Any = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "null"}, "strict": True}}
    async with http_stack() as stack, client(stack) as caller:
        response = await caller.responses.create(
            model=MODEL, input="hi", top_logprobs=1, include=["message.output_text.logprobs"], text=form
        )
    part: Any = response.output[0].content[0]  # type: ignore[union-attr, index]
    assert (part.logprobs[0].token, part.logprobs[0].top_logprobs[0].token) == ("hi", "other")
    assert response.text is not None
    assert response.text.to_dict() == form
    assert stack.tiers.llm.opened[0].sampling.grammar.json_schema == '{"type": "null"}'


@bounded
async def test_response_in_the_background_goes_on_alone() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.gate.clear()
        started = await caller.responses.create(model=MODEL, input="one two", background=True)
        assert (started.status, started.background) == ("in_progress", True)
        await until(lambda: stack.tiers.llm.active)
        assert (await caller.responses.retrieve(started.id)).status == "in_progress"
        with pytest.raises(openai.BadRequestError, match="no answer yet"):
            await caller.responses.create(model=MODEL, input="x", previous_response_id=started.id)
        stack.tiers.llm.gate.set()
        await asyncio.wait_for(stack.tiers.llm.idle.wait(), 5)
        found = await ended(caller, started.id)
        assert (found.status, found.output_text) == ("completed", "one two")
        following = await caller.responses.create(model=MODEL, input="x", previous_response_id=started.id)
        assert following.output_text == "x"


@bounded
async def test_response_in_the_background_is_cancelled() -> None:
    async with http_stack() as stack, client(stack) as caller:
        stack.tiers.llm.gate.clear()
        started = await caller.responses.create(model=MODEL, input="one two", background=True)
        await until(lambda: stack.tiers.llm.active)
        assert (await caller.responses.cancel(started.id)).status == "cancelled"
        await asyncio.wait_for(stack.tiers.llm.idle.wait(), 5)
        stack.tiers.llm.gate.set()
        done = await caller.responses.create(model=MODEL, input="hi")
        with pytest.raises(openai.BadRequestError):
            await caller.responses.cancel(done.id)


@bounded
async def test_refused_response_leaves_nothing() -> None:
    async with http_stack() as stack:
        assert stack.tiers.core is not None
        stack.tiers.llm.refusal = InvalidField("open.sampling.temperature", "will not do")
        for stream in (False, True):
            asked = {"model": MODEL, "input": "hi", "temperature": 1, "stream": stream}
            reply = await stack.post(RESPONSES, asked)
            assert (reply.status, reply.error["param"]) == (400, "temperature")
        listed = await stack.tiers.chat.ListConversations(chat_service_pb2.ListConversationsRequest())
        assert not listed.conversations


@bounded
async def test_what_is_kept_is_told_while_the_language_tier_is_away(tmp_path: Path) -> None:
    gateway = Config(ServerConfig(HERE), store=str(tmp_path / "kept.db"))
    async with http_stack(gateway=gateway) as stack, client(stack) as caller:
        done = await caller.responses.create(model=MODEL, input="one two")
        stack.tiers.llm.gate.clear()
        started = await caller.responses.create(model=MODEL, input="three", background=True)
        assert stack.tiers.llm_server is not None
        await stack.tiers.llm_server.server.stop(0)
        kept = await caller.responses.retrieve(done.id)
        assert (kept.output_text, kept.model) == ("one two", MODEL)
        assert await caller.responses.cancel(started.id)
    async with http_stack(gateway=gateway) as stack, client(stack) as caller:
        assert stack.tiers.llm_server is not None
        await stack.tiers.llm_server.server.stop(0)
        assert (await caller.responses.retrieve(done.id)).output_text == "one two"


@bounded
async def test_another_gateway_waits_as_long_as_a_background_turn_may_take(tmp_path: Path) -> None:
    store = str(tmp_path / "kept.db")
    gateway = Config(ServerConfig(HERE), store=store, turns=TurnConfig(longest_s=3600.0))
    quick = HttpConfig(HERE, request_timeout_s=20.0)
    async with (
        http_stack(gateway=gateway) as stack,
        http_stack(quick, gateway=gateway) as other,
        client(stack) as caller,
        client(other) as elsewhere,
    ):
        stack.tiers.llm.gate.clear()
        started = await caller.responses.create(model=MODEL, input="one two", background=True)
        for age_s, status in ((60, "in_progress"), (4000, "failed")):
            with closing(sqlite3.connect(store)) as database, database:
                database.execute("UPDATE conversations SET created = created - ?", (age_s,))
            assert (await elsewhere.responses.retrieve(started.id)).status == status


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"truncation": "auto"}, "truncation"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"background": True, "store": False}, "background"),
    ({"background": True, "stream": True}, "stream"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
        "input[0].content[0].file_id",
    ),
)


@bounded
async def test_field_is_refused_by_name() -> None:
    async with http_stack() as stack:
        for fields, param in REFUSED:
            reply = await stack.post(RESPONSES, {"model": MODEL, "input": "hi"} | fields)
            assert (reply.status, reply.error["param"]) == (400, param)
        for path in (f"{RESPONSES}/resp_nothing", f"{RESPONSES}/else", f"{RESPONSES}/resp_a.b/input_items"):
            assert (await stack.get(path)).status == 404
        unknown = await stack.post(
            RESPONSES, {"model": MODEL, "input": "x", "previous_response_id": "resp_x"}
        )
        assert unknown.status == 404
