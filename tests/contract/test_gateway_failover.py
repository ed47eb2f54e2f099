"""Replicas that are lost in the middle of a turn: the client sees no gap, no duplicate and the same text."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from gateway.config import Config
from gateway.tiers.retries import RetryConfig
from internvl.errors import InvalidField, Overloaded, Unavailable
from internvl.v1 import llm_service_pb2
from tests.contract.fake_llm import FakeLlm
from tests.contract.fake_vision import picture
from tests.contract.gateway_fleet import (
    QUICK,
    Fleet,
    gateway,
    gateway_fleet,
    served_llm,
    targets,
)
from tests.contract.gateway_tiers import bounded, chat_request, until

TEXT = "one two three four five six"
IMPATIENT = RetryConfig(failover_wait_s=0.2)


class Reading:
    """A turn, read piece by piece."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._events = aiter(call)

    async def take(self, count: int) -> list[Any]:
        return [await anext(self._events) for _ in range(count)]

    async def rest(self) -> list[Any]:
        return [event async for event in self._events]


def text_of(received: list[Any]) -> str:
    return "".join(event.delta.text for event in received)


def kinds(received: list[Any]) -> list[str]:
    return [event.WhichOneof("event") for event in received]


async def lose_llm(fleet: Fleet) -> int:
    """Stop the language replica that answers; its number."""
    await until(lambda: any(llm.active for llm in fleet.llms))
    number = fleet.llm_at_work()
    await fleet.llm_servers[number].server.stop(0)
    return number


@pytest.mark.parametrize("words", range(7))
@bounded
async def test_an_answer_goes_on_elsewhere_behind_what_was_delivered(words: int) -> None:
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.hold_at = words
        turn = Reading(
            fleet.chat.Chat(chat_request(TEXT, sampling=llm_service_pb2.SamplingParams(logprobs=1)))
        )
        received = await turn.take(1 + words)
        for llm in fleet.llms:
            llm.hold_at = None
        lost = await lose_llm(fleet) if words < 6 else None
        received += await turn.rest()
    assert kinds(received) == ["started", *["delta"] * 6, "result"]
    assert text_of(received) == received[-1].result.message.parts[0].text == TEXT
    logprobs = [logprob for event in received for logprob in event.delta.logprobs]
    assert [logprob.token_id for logprob in logprobs] == list(range(6))
    if lost is not None:
        assert list(fleet.llms[1 - lost].opened[0].delivered_token_ids) == list(range(words))


@bounded
async def test_a_resumed_answer_has_the_seed_that_it_began_with() -> None:
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.hold_at = 2
        turn = Reading(
            fleet.chat.Chat(chat_request(TEXT, sampling=llm_service_pb2.SamplingParams(temperature=1.0)))
        )
        await turn.take(3)
        for llm in fleet.llms:
            llm.hold_at = None
        await lose_llm(fleet)
        assert kinds(await turn.rest())[-1] == "result"
        first, second = (llm.opened[0] for llm in fleet.llms)
    assert first.sampling.HasField("seed")
    assert first.sampling == second.sampling
    assert first.messages == second.messages


@bounded
async def test_pictures_are_encoded_again_for_the_replica_that_goes_on() -> None:
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.hold_at = 1
        turn = Reading(fleet.chat.Chat(chat_request(picture(3), TEXT)))
        received = await turn.take(5)
        for llm in fleet.llms:
            llm.hold_at = None
        lost = await lose_llm(fleet)
        received += await turn.rest()
        assert len(fleet.llms[1 - lost].received) == 3
    # Nothing is reported twice.
    assert kinds(received) == ["started", *["encoding"] * 3, *["delta"] * 6, "result"]
    assert text_of(received) == TEXT


@bounded
async def test_several_answers_are_begun_again_but_not_resumed() -> None:
    several = llm_service_pb2.SamplingParams(n=2)
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.gate.clear()
        turn = Reading(fleet.chat.Chat(chat_request(TEXT, sampling=several)))
        assert kinds(await turn.take(1)) == ["started"]
        await lose_llm(fleet)
        for llm in fleet.llms:
            llm.gate.set()
        received = await turn.rest()
        assert text_of([event for event in received if not event.delta.choice]) == TEXT
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.hold_at = 1
        turn = Reading(fleet.chat.Chat(chat_request(TEXT, sampling=several)))
        await turn.take(2)
        await lose_llm(fleet)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await turn.rest()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "language service" in str(caught.value.details())


@bounded
async def test_an_answer_does_not_go_on_with_other_weights() -> None:
    async with gateway_fleet(llms=2) as fleet:
        for number, llm in enumerate(fleet.llms):
            llm.hold_at, llm.model = 1, f"parrot-{number}"
        turn = Reading(fleet.chat.Chat(chat_request(TEXT)))
        await turn.take(2)
        await lose_llm(fleet)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await turn.rest()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "changed its model" in str(caught.value.details())


@bounded
async def test_an_answer_waits_for_its_only_replica_to_come_back() -> None:
    async with AsyncExitStack() as stack:
        llm = FakeLlm()
        llm.hold_at = 2
        first = await stack.enter_async_context(served_llm(llm))
        chat = await stack.enter_async_context(gateway(Config(QUICK, llm=targets([first]))))
        turn = Reading(chat.Chat(chat_request(TEXT)))
        received = await turn.take(3)
        await first.server.stop(0)
        llm.hold_at = None
        await stack.enter_async_context(served_llm(llm, first.port))
        received += await turn.rest()
    assert text_of(received) == TEXT


@pytest.mark.parametrize("tiles", range(5))
@bounded
async def test_a_picture_is_encoded_elsewhere_from_the_first_missing_tile_on(tiles: int) -> None:
    async with gateway_fleet(visions=2) as fleet:
        for vision in fleet.visions:
            vision.hold_at = tiles
        turn = asyncio.create_task(fleet.events(picture(4), TEXT))
        llm = fleet.llms[0]
        await until(lambda: len(llm.received) == tiles)
        if tiles < 4:
            await until(lambda: any(vision.active for vision in fleet.visions))
            lost = fleet.vision_at_work()
            await fleet.vision_servers[lost].server.stop(0)
            fleet.visions[1 - lost].hold_at = None
        received = await turn
        sent = [llm_service_pb2.GenerateRequest.FromString(frame).tile for frame in llm.received]
        assert [tile.index for tile in sent] == [0, 1, 2, 3]
        assert len(llm.opened) == 1
        if tiles < 4:
            assert [first for _, first in fleet.visions[1 - lost].encoded] == [tiles]
    assert kinds(received) == ["started", *["encoding"] * 4, *["delta"] * 6, "result"]


@bounded
async def test_vision_lost_before_the_layout_is_asked_elsewhere() -> None:
    async with gateway_fleet(visions=2) as fleet:
        for vision in fleet.visions:
            vision.reading.clear()
        turn = asyncio.create_task(fleet.events(picture(2), TEXT))
        await until(lambda: any(vision.active for vision in fleet.visions))
        lost = fleet.vision_at_work()
        fleet.visions[1 - lost].reading.set()
        await fleet.vision_servers[lost].server.stop(0)
        assert text_of(await turn) == TEXT


@bounded
async def test_a_picture_does_not_go_on_with_another_encoder() -> None:
    async with gateway_fleet(visions=2) as fleet:
        for number, vision in enumerate(fleet.visions):
            vision.hold_at, vision.model = 1, f"encoder-{number}"
        turn = asyncio.create_task(fleet.events(picture(3), TEXT))
        await until(lambda: fleet.llms[0].received)
        await fleet.vision_servers[fleet.vision_at_work()].server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await turn
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "refusal", [Overloaded("the queue is full", retry_after_s=1.0), InvalidField("open.messages", "is wrong")]
)
@bounded
async def test_what_is_not_a_loss_is_not_tried_again(refusal: Exception) -> None:
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.refusal = refusal  # type: ignore[assignment]
        with pytest.raises(grpc.aio.AioRpcError):
            await fleet.events(TEXT)
        assert sum(len(llm.opened) for llm in fleet.llms) == 1


@bounded
async def test_one_turn_is_tried_again_only_so_often() -> None:
    async with gateway_fleet(llms=2, retries=RetryConfig(per_turn=2)) as fleet:
        for llm in fleet.llms:
            llm.refusal = Unavailable("going away")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fleet.events(TEXT)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # The second attempt goes to the other replica.
        assert sorted(len(llm.opened) for llm in fleet.llms) == [1, 2]


@bounded
async def test_an_outage_is_not_answered_with_a_flood_of_retries() -> None:
    async with gateway_fleet(llms=2, retries=RetryConfig(per_turn=3, ratio=0.0)) as fleet:
        for llm in fleet.llms:
            llm.refusal = Unavailable("going away")
        turns = await asyncio.gather(*(fleet.events(TEXT) for _ in range(30)), return_exceptions=True)
        assert all(isinstance(turn, grpc.aio.AioRpcError) for turn in turns)
        # Ten are in reserve; then a turn is as good as its first call.
        assert sum(len(llm.opened) for llm in fleet.llms) == 30 + 10


@bounded
async def test_no_replica_left_is_said_once_the_wait_is_over() -> None:
    async with gateway_fleet(llms=1, retries=IMPATIENT) as fleet:
        fleet.llms[0].hold_at = 1
        turn = Reading(fleet.chat.Chat(chat_request(TEXT)))
        await turn.take(2)
        await fleet.llm_servers[0].server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await turn.rest()
    assert caught.value.details() == "the language service cannot be reached"


@bounded
async def test_client_cancel_reaches_the_replica_that_went_on() -> None:
    async with gateway_fleet(llms=2) as fleet:
        for llm in fleet.llms:
            llm.hold_at = 1
        turn = Reading(fleet.chat.Chat(chat_request(TEXT)))
        await turn.take(2)
        lost = await lose_llm(fleet)
        await until(lambda: fleet.llms[1 - lost].active)
        turn.call.cancel()
        await asyncio.wait_for(fleet.llms[1 - lost].idle.wait(), 5)
