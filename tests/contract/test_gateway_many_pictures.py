"""Turns about many pictures leave the vision tier room for others."""

from __future__ import annotations

import asyncio

import pytest

from internvl.v1 import chat_service_pb2, llm_service_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, until, user

_PICTURES = [picture(2, f"page {number}") for number in range(20)]
_SHARE = 8
"""Files that a turn may have in the vision tier at a time."""


async def events(stack: Stack, *parts: str | bytes) -> list[chat_service_pb2.ChatResponse]:
    return [event async for event in stack.chat.Chat(chat_request(*parts))]


async def held_back(stack: Stack, gate: asyncio.Event, least: int = 2) -> None:
    """Let the vision tier go on when so many have begun, and all that will while other turns come and go."""
    await until(lambda: stack.vision.active >= least)
    for _ in range(20):
        await events(stack, "meanwhile")
    gate.set()


@bounded
async def test_a_turn_of_many_pictures_takes_a_few_places_of_the_vision_tier() -> None:
    async with gateway_stack() as stack:
        stack.vision.gate.clear()
        received, _ = await asyncio.gather(
            events(stack, *_PICTURES, "compare"), held_back(stack, stack.vision.gate)
        )
        assert received[-1].result.message.parts[0].text == "compare"
        assert stack.vision.most_active <= _SHARE
        names = [layout.visual_id for layout in received[0].started.layouts]
        frames = [llm_service_pb2.GenerateRequest.FromString(frame) for frame in stack.llm.received]
        sent = [(frame.tile.visual_id, frame.tile.index) for frame in frames]
        assert sent == [(name, index) for name in names for index in (0, 1)]


@bounded
async def test_so_does_a_later_one_whose_pictures_the_language_tier_has_lost() -> None:
    async with gateway_stack() as stack:
        await events(stack, *_PICTURES, "compare")
        stack.llm.cached.clear()
        stack.vision.gate.clear()
        received, _ = await asyncio.gather(
            events(stack, *_PICTURES, "again"), held_back(stack, stack.vision.gate)
        )
        assert received[-1].result.message.parts[0].text == "again"
        assert stack.vision.most_active <= _SHARE


@bounded
async def test_a_few_pictures_are_all_encoded_at_once_and_each_only_once() -> None:
    async with gateway_stack() as stack:
        stack.vision.gate.clear()
        await asyncio.gather(
            events(stack, *_PICTURES[:_SHARE], "compare"),
            held_back(stack, stack.vision.gate, least=_SHARE),
        )
        assert stack.vision.most_active == _SHARE
        assert sorted(file for file, _ in stack.vision.encoded) == sorted(_PICTURES[:_SHARE])


@pytest.mark.parametrize("tile_budget", [None, 20])
@bounded
async def test_a_plan_of_many_pictures_takes_a_few_places(tile_budget: int | None) -> None:
    async with gateway_stack() as stack:
        stack.vision.reading.clear()
        messages = [user(*_PICTURES, "compare")]
        request = chat_service_pb2.PlanTurnRequest(messages=messages, tile_budget=tile_budget)
        planning = asyncio.ensure_future(stack.chat.PlanTurn(request))
        await held_back(stack, stack.vision.reading, least=_SHARE)
        assert (await planning).tiles == (40 if tile_budget is None else tile_budget)
        assert stack.vision.most_active <= _SHARE
