"""Turns that outlive their streams: read on after a drop, run in the background, cancelled by name."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from gateway.config import Config
from gateway.turns.live_turns import LiveTurns, TurnConfig
from internvl.errors import NotFound, Overloaded
from internvl.rpc import ServerConfig
from internvl.v1 import chat_service_pb2 as chat
from internvl.v1 import llm_service_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, until

QUICK = ServerConfig("127.0.0.1:0")
TEXT = "one two three four"


async def start(stack: Stack, *parts: Any, **fields: Any) -> str:
    response = await stack.chat.StartTurn(chat.StartTurnRequest(chat=chat_request(*parts, **fields)))
    return str(response.turn_id)


async def poll(stack: Stack, turn_id: str) -> chat.GetTurnResponse:
    return await stack.chat.GetTurn(chat.GetTurnRequest(turn_id=turn_id))


async def polled_to_the_end(stack: Stack, turn_id: str) -> None:
    async with asyncio.timeout(10):
        while True:
            await poll(stack, turn_id)


async def attach(stack: Stack, turn_id: str, after: int = 0) -> list[chat.ChatResponse]:
    request = chat.AttachTurnRequest(turn_id=turn_id, after_event_id=after)
    return [response.event async for response in stack.chat.AttachTurn(request)]


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def text_of(events: list[chat.ChatResponse]) -> str:
    return "".join(event.delta.text for event in events)


async def create(stack: Stack) -> str:
    created = await stack.chat.CreateConversation(chat.CreateConversationRequest())
    return str(created.conversation.conversation_id)


async def fetch(stack: Stack, conversation_id: str) -> chat.Conversation:
    request = chat.GetConversationRequest(conversation_id=conversation_id)
    return (await stack.chat.GetConversation(request)).conversation


@bounded
async def test_events_are_numbered_from_one() -> None:
    async with gateway_stack() as stack:
        events = [event async for event in stack.chat.Chat(chat_request(picture(2), TEXT))]
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        assert events[0].started.turn_id


@pytest.mark.parametrize("seen", range(1, 6))
@bounded
async def test_a_lost_stream_is_read_on_behind_the_last_event_seen(seen: int) -> None:
    async with gateway_stack() as stack:
        stack.llm.hold_at = max(seen - 1, 0)
        call = stack.chat.Chat(chat_request(TEXT, resumable=True))
        events = aiter(call)
        received = [await anext(events) for _ in range(seen)]
        call.cancel()
        turn_id = received[0].started.turn_id
        if stack.llm.hold_at < 4:
            attached = asyncio.create_task(attach(stack, turn_id, received[-1].event_id))
            await until(lambda: stack.llm.active)
            assert (await poll(stack, turn_id)).state == chat.TURN_STATE_RUNNING
            release(stack)
            received += await attached
        else:
            received += await attach(stack, turn_id, received[-1].event_id)
        assert text_of(received) == received[-1].result.message.parts[0].text == TEXT
        assert [event.event_id for event in received] == list(range(1, 7))


def release(stack: Stack) -> None:
    stack.llm.released.set()


@bounded
async def test_a_stream_that_is_not_resumable_ends_with_its_client() -> None:
    async with gateway_stack() as stack:
        stack.llm.hold_at = 1
        call = stack.chat.Chat(chat_request(TEXT))
        started = await anext(aiter(call))
        call.cancel()
        await asyncio.wait_for(stack.llm.idle.wait(), 5)
        assert await code_of(poll(stack, started.started.turn_id)) is grpc.StatusCode.NOT_FOUND


@bounded
async def test_a_background_turn_is_polled_read_and_stored() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        stack.llm.hold_at = 2
        turn_id = await start(stack, picture(3), TEXT, conversation_id=conversation_id)
        async with asyncio.timeout(10):
            while (state := await poll(stack, turn_id)).text != "one two":
                assert state.state == chat.TURN_STATE_RUNNING
        assert [(e.tiles_done, e.tiles_total) for e in state.encoding] == [(3, 3)]
        release(stack)
        whole, again = await asyncio.gather(attach(stack, turn_id), attach(stack, turn_id, 3))
        assert text_of(whole) == TEXT
        assert whole[3:] == again
        state = await poll(stack, turn_id)
        assert (state.state, state.text) == (chat.TURN_STATE_DONE, TEXT)
        assert state.result == whole[-1].result
        assert state.last_event_id == whole[-1].event_id
        stored = await fetch(stack, conversation_id)
        assert [turn.turn_id for turn in stored.turns] == [turn_id]
        assert stored.messages[-1].parts[0].text == TEXT


@bounded
async def test_a_cancelled_turn_keeps_what_it_said() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        stack.llm.hold_at = 2
        turn_id = await start(stack, TEXT, conversation_id=conversation_id)
        async with asyncio.timeout(10):
            while (await poll(stack, turn_id)).text != "one two":
                pass
        for _ in range(2):
            await stack.chat.CancelTurn(chat.CancelTurnRequest(turn_id=turn_id))
        await asyncio.wait_for(stack.llm.idle.wait(), 5)
        assert (await poll(stack, turn_id)).state == chat.TURN_STATE_CANCELLED
        assert await code_of(attach(stack, turn_id)) is grpc.StatusCode.CANCELLED
        (turn,) = (await fetch(stack, conversation_id)).turns
        assert turn.outcome == chat.TURN_OUTCOME_CANCELLED
        assert (await fetch(stack, conversation_id)).messages[-1].parts[0].text == "one two"


@bounded
async def test_a_failed_turn_tells_why() -> None:
    async with gateway_stack() as stack:
        stack.llm.refusal = Overloaded("the queue is full", retry_after_s=2.0, metadata={"limit": 3})
        turn_id = await start(stack, TEXT)
        assert await code_of(attach(stack, turn_id)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = (await poll(stack, turn_id)).error
        assert (error.code, error.reason, dict(error.metadata)) == (8, "OVERLOADED", {"limit": "3"})
        assert error.retry_delay.ToMilliseconds() == 2000
        assert await code_of(start(stack)) is grpc.StatusCode.INVALID_ARGUMENT


@bounded
async def test_running_turns_are_bounded() -> None:
    async with gateway_stack(Config(QUICK, turns=TurnConfig(most_running=2))) as stack:
        stack.llm.hold_at = 0
        first, _ = await start(stack, TEXT), await start(stack, TEXT)
        assert await code_of(start(stack, TEXT)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stack.chat.CancelTurn(chat.CancelTurnRequest(turn_id=first))
        await start(stack, TEXT)


@bounded
async def test_what_is_kept_of_a_turn_is_bounded() -> None:
    words = " ".join(["word"] * 200)
    async with gateway_stack(Config(QUICK, turns=TurnConfig(most_turn_bytes=2000))) as stack:
        turn_id = await start(stack, words)
        async with asyncio.timeout(10):
            while (state := await poll(stack, turn_id)).state == chat.TURN_STATE_RUNNING:
                pass
        assert state.text == words
        assert await code_of(attach(stack, turn_id)) is grpc.StatusCode.FAILED_PRECONDITION
        assert len(await attach(stack, turn_id, state.last_event_id - 1)) == 1


@bounded
async def test_the_running_turn_that_keeps_most_makes_room_for_the_others() -> None:
    long, kept = " ".join(["word"] * 200), 3000
    async with gateway_stack(Config(QUICK, turns=TurnConfig(most_bytes=kept))) as stack:
        stack.llm.hold_at = 199
        large = await start(stack, long)
        async with asyncio.timeout(10):
            while (state := await poll(stack, large)).last_event_id < 200:
                pass
        for _ in range(3):
            events = [event async for event in stack.chat.Chat(chat_request(TEXT, resumable=True))]
            assert text_of(events) == TEXT
        release(stack)
        assert await code_of(attach(stack, large)) is grpc.StatusCode.FAILED_PRECONDITION
        assert (await attach(stack, large, state.last_event_id))[-1].result.message.parts[0].text == long


@bounded
async def test_an_event_larger_than_all_that_is_kept_is_still_read() -> None:
    limits = TurnConfig(most_bytes=10, most_turn_bytes=10)
    async with gateway_stack(Config(QUICK, turns=limits)) as stack:
        stack.llm.hold_at = 0
        call = stack.chat.Chat(chat_request(TEXT, resumable=True))
        assert (await anext(aiter(call))).started.turn_id


@bounded
async def test_turns_that_have_ended_are_dropped_to_make_room_and_in_time() -> None:
    async with gateway_stack(Config(QUICK, turns=TurnConfig(most_bytes=500))) as stack:
        ended = [await start(stack, TEXT) for _ in range(8)]
        for turn_id in ended[-1:]:
            await attach(stack, turn_id)
        assert await code_of(poll(stack, ended[0])) is grpc.StatusCode.NOT_FOUND
    async with gateway_stack(Config(QUICK, turns=TurnConfig(keep_s=0.0))) as stack:
        turn_id = await start(stack, TEXT)
        assert await code_of(polled_to_the_end(stack, turn_id)) is grpc.StatusCode.NOT_FOUND


@bounded
async def test_another_tenants_turn_does_not_exist() -> None:
    turns = LiveTurns(TurnConfig())

    async def nothing(emit: Any) -> None:
        """Say nothing."""

    turn = turns.start("name", "mine", nothing)
    assert turns.get("name", "mine") is turn
    with pytest.raises(NotFound):
        turns.get("name", "other")
    await turns.close()


def answer(events: list[chat.ChatResponse], choice: int) -> tuple[Any, ...]:
    """Text, tokens and log-probabilities of one of several answers."""
    deltas = [event.delta for event in events if event.HasField("delta") and event.delta.choice == choice]
    return (
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.token_ids],
        [logprob for delta in deltas for logprob in delta.logprobs],
    )


@bounded
async def test_a_repeated_key_gets_the_first_answer() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        sampling = llm_service_pb2.SamplingParams(n=2, logprobs=1)
        for place in ({}, {"conversation_id": conversation_id}):
            fields = {**place, "idempotency_key": "key-1", "sampling": sampling}
            stack.llm.opened.clear()
            both = [
                [event async for event in stack.chat.Chat(chat_request(TEXT, **fields))] for _ in range(2)
            ]
            assert len(stack.llm.opened) == 1
            first, second = both
            assert first[-1].result == second[-1].result
            assert first[0].started == second[0].started
            for choice in range(2):
                assert answer(first, choice) == answer(second, choice)
        assert (await fetch(stack, conversation_id)).version == 1
        other = stack.chat.Chat(chat_request("something else", idempotency_key="key-1"))
        assert await code_of(anext(aiter(other))) is grpc.StatusCode.ALREADY_EXISTS


@bounded
async def test_a_key_that_runs_is_waited_for_and_a_failed_one_is_free_again() -> None:
    async with gateway_stack() as stack:
        conversation_id = await create(stack)
        request = chat_request(TEXT, conversation_id=conversation_id, idempotency_key="k")
        stack.llm.hold_at = 1

        async def ask() -> list[chat.ChatResponse]:
            return [event async for event in stack.chat.Chat(request)]

        both = [asyncio.create_task(ask()) for _ in range(2)]
        await until(lambda: stack.llm.active)
        release(stack)
        for received in await asyncio.gather(*both):
            assert text_of(received) == TEXT
        assert len(stack.llm.opened) == 1
        request.idempotency_key = "l"
        stack.llm.refusal = Overloaded("the queue is full", retry_after_s=1.0)
        assert await code_of(ask()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        stack.llm.refusal = None
        assert text_of(await ask()) == TEXT
        assert (await fetch(stack, conversation_id)).version == 2
