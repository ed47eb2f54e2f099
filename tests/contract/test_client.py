"""The client library against a gateway with stand-in tiers: both clients, the same behaviour."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from internvl_client import (
    AsyncClient,
    Cancelled,
    Client,
    Image,
    Media,
    Plan,
    TimedOut,
    Unavailable,
    Video,
    assistant,
    system,
    user,
)
from tests.contract.both_clients import Both, in_thread
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, gateway_stack, until


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("hello there", {}),
        ("what is it", {"images": [picture(3)], "temperature": 0.5, "stop": ["x"], "seed": 3}),
        ("compare", {"images": [picture(1, "a"), Image(picture(2, "b"), max_tiles=4)], "system": "be brief"}),
        ("which way", {"videos": [Video(picture(4), frames=4, start_s=0.0)], "visuals_first": False}),
        (
            None,
            {"messages": [system("a"), user("hi", Image(picture(1))), assistant("yes"), user("ok")]},
        ),
    ],
)
@bounded
async def test_both_clients_send_and_tell_the_same(text: str | None, options: dict[str, Any]) -> None:
    async with gateway_stack() as stack:
        # The tiers know the pictures after the first run, so let them see them before.
        async with AsyncClient(stack.address) as client:
            await client.chat(text, **options).result()
        sync_told, async_told = await Both(stack.address).events(text, **options)
        assert sync_told == async_told
        for opened in stack.llm.opened:
            opened.ClearField("request_id")
        assert stack.llm.opened[0] == stack.llm.opened[1] == stack.llm.opened[2]


@in_thread
def test_answer_adds_up_while_it_is_written(stack: Stack, client: Client) -> None:
    stream = client.chat("one two three", images=[picture(2)])
    assert (stream.text, stream.finish_reason, stream.usage, stream.started) == ("", None, None, None)
    pieces = []
    for piece in stream:
        pieces.append(piece)
        assert stream.text == "".join(pieces)
    assert pieces == ["one", " two", " three"]
    assert stream.finish_reason == "stop"
    assert stream.started is not None
    assert [layout.tiles for layout in stream.started.layouts] == [2]
    assert stream.usage is not None
    assert stream.usage.completion_tokens == 3
    answer = stream.result()
    assert (answer.text, answer.token_ids) == ("one two three", (0, 1, 2))
    assert answer.timings.first_token_ms > 0


@in_thread
def test_conversation_remembers_on_the_server(stack: Stack, client: Client) -> None:
    conversation = client.conversation(system="be brief")
    assert conversation.conversation_id is None
    first = conversation.say("what is it", images=[picture(3)]).result()
    again = client.conversation(conversation_id=conversation.conversation_id)
    second = again.say("are you sure", max_tokens=5).result()
    assert (first.conversation_version, second.conversation_version) == (1, 2)
    messages = conversation.messages()
    assert [(message.role, message.text) for message in messages] == [
        ("system", "be brief"),
        ("user", "what is it"),
        ("assistant", "what is it"),
        ("user", "are you sure"),
        ("assistant", "are you sure"),
    ]
    shown = messages[1].parts[0]
    assert isinstance(shown, Image)
    assert isinstance(shown.source, Media)
    assert client.chat(messages=messages[:-1]).result().text == "are you sure"
    assert len(stack.vision.encoded) == 1
    conversation.delete()
    assert conversation.conversation_id is None


@bounded
async def test_async_conversation_remembers_too() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        conversation = client.conversation(system="be brief")
        await conversation.say("what is it", images=[picture(3)]).result()
        answer = await conversation.say("are you sure").result()
        assert answer.conversation_version == 2
        assert [message.text for message in await conversation.messages()][-1] == "are you sure"
        await conversation.delete()
        assert conversation.conversation_id is None


@pytest.mark.parametrize("kind", ["sync", "async"])
@bounded
async def test_plan_and_info(kind: str) -> None:
    async with gateway_stack() as stack:
        if kind == "async":
            async with AsyncClient(stack.address) as client:
                plan, info = await client.plan("hi", images=[picture(2)]), await client.info()
        else:
            with Client(stack.address) as blocking:
                plan = await asyncio.to_thread(blocking.plan, "hi", images=[picture(2)])
                info = await asyncio.to_thread(blocking.info)
        assert (plan.visual_tokens, plan.prompt_tokens, plan.fits) == (32, 42, True)
        assert (info.model_name, info.context_limit) == ("parrot", 200)


@bounded
async def test_plan_counts_the_answer_and_keeps_to_the_tile_budget() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        shown: Any = {"images": [picture(6, "a"), picture(2, "b")], "tile_budget": 6, "max_tokens": 3}

        def blocking() -> list[Plan]:
            with Client(stack.address) as client:
                return [client.plan("hi", **shown), client.conversation().plan("hi", **shown)]

        plans = [
            await client.plan("hi", **shown),
            await client.conversation().plan("hi", **shown),
            *await asyncio.to_thread(blocking),
        ]
        assert [[layout.tiles for layout in plan.layouts] for plan in plans] == [[3, 2]] * 4
        assert [plan.fits for plan in plans] == [True] * 4
        more = await client.plan("hi", **shown | {"max_tokens": 150})
        assert (more.prompt_tokens + 150 > more.context_limit, more.fits) == (True, False)


@bounded
async def test_plan_of_a_conversation_counts_what_was_said() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        conversation = client.conversation()
        await conversation.say("what is it", images=[picture(3)]).result()
        plan = await conversation.plan("are you sure", images=[picture(2)])
        assert [layout.tiles for layout in plan.layouts] == [3, 2]
        assert len(stack.llm.opened) == 1


@bounded
async def test_cancel_ends_the_answer_quietly_on_all_tiers() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        stack.vision.gate.clear()
        stream = client.chat("one two", images=[picture(2)])
        events = stream.events()
        await anext(events)
        stream.cancel()
        assert [event async for event in events] == []
        assert stream.cancelled
        with pytest.raises(Cancelled):
            await stream.result()
        await asyncio.wait_for(stack.vision.idle.wait(), 5)
        await until(lambda: not stack.llm.active)


@bounded
async def test_leaving_the_block_cancels_the_answer() -> None:
    async with gateway_stack() as stack:
        stack.vision.gate.clear()

        def leave() -> None:
            with Client(stack.address) as client, client.chat("one", images=[picture(2)]) as stream:
                assert next(stream.events())
            assert stream.cancelled

        await asyncio.to_thread(leave)
        await asyncio.wait_for(stack.vision.idle.wait(), 5)
        async with AsyncClient(stack.address) as client, client.chat("one", images=[picture(2)]) as stream:
            await anext(stream.events())
        await asyncio.wait_for(stack.vision.idle.wait(), 5)


@pytest.mark.parametrize(("of_client", "of_call"), [(30.0, 0.3), (0.3, None)])
@bounded
async def test_timeout_of_the_call_or_else_of_the_client_ends_an_answer(
    of_client: float, of_call: float | None
) -> None:
    async with gateway_stack() as stack:
        stack.llm.gate.clear()
        async with AsyncClient(stack.address, timeout=of_client) as client:
            with pytest.raises(TimedOut):
                await client.chat("late", timeout=of_call).result()
        with Client(stack.address, timeout=of_client) as blocking:
            waiting = asyncio.to_thread(lambda: blocking.chat("late", timeout=of_call).result())
            with pytest.raises(TimedOut):
                await waiting
        await until(lambda: not stack.llm.active)


@bounded
async def test_lost_tier_in_the_middle_keeps_what_arrived_and_asks_nothing_twice() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        from internvl.errors import Unavailable as TierUnavailable

        stack.llm.failure = TierUnavailable("the model is going away")
        stream = client.chat("one two three")
        with pytest.raises(Unavailable):
            await stream.result()
        assert stream.text == "one"
        # Each attempt goes on behind what was delivered.
        assert [list(opened.delivered_token_ids) for opened in stack.llm.opened] == [[], [0], [0], [0]]


@bounded
async def test_refused_before_the_first_event_is_asked_again() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        from internvl.errors import Unavailable as TierUnavailable

        stack.llm.refusal = TierUnavailable("not yet")
        asking = asyncio.create_task(client.chat("one two").result())
        await until(lambda: stack.llm.opened)
        stack.llm.refusal = None
        assert (await asking).text == "one two"


@bounded
async def test_no_server_is_told_at_once() -> None:
    async with AsyncClient("127.0.0.1:9", timeout=20) as client:
        with pytest.raises(Unavailable) as caught:
            await client.chat("hello").result()
        assert caught.value.reason == ""


@in_thread
def test_wrong_use_is_a_plain_error_at_the_call(stack: Stack, client: Client) -> None:
    with pytest.raises(TypeError, match="question or messages"):
        client.chat()
    with pytest.raises(TypeError, match="question or messages"):
        client.chat("hi", messages=[user("hi")])
    with pytest.raises(TypeError, match="images="):
        client.chat(messages=[user("hi")], images=[picture(1)])
    with pytest.raises(TypeError, match="images= takes a list"):
        client.chat("hi", images="photo.jpg")
    with pytest.raises(TypeError, match="temprature"):
        client.chat("hi", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="temperature"):
        client.plan("hi", temperature=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="system"):
        client.conversation().say("hi", system="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="seed"):
        client.conversation().plan("hi", seed=1)  # type: ignore[call-arg]
    assert stack.llm.opened == []
