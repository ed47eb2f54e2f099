"""What a turn would cost, and fewer tiles for what it shows, over real gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from internvl.v1 import chat_service_pb2
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack, user


@bounded
async def test_plan_matches_the_turn() -> None:
    async with gateway_stack() as stack:
        messages = [user(picture(3), "plan this")]
        plan = await stack.chat.PlanTurn(chat_service_pb2.PlanTurnRequest(messages=messages))
        assert (plan.visual_tokens, plan.prompt_tokens, plan.context_limit) == (48, 58, 200)
        assert plan.fits
        assert stack.vision.encoded == []
        started = (await _events(stack, chat_request(picture(3), "plan this")))[0].started
        assert started.prompt_tokens == plan.prompt_tokens
        again = await stack.chat.PlanTurn(chat_service_pb2.PlanTurnRequest(messages=messages))
        assert [layout.visual_id for layout in (*plan.layouts, *again.layouts)] == ["", ""]
        assert len(stack.vision.inspected) == 1


@bounded
async def test_plan_tells_what_the_turn_would_take_and_meet() -> None:
    async with gateway_stack() as stack:
        messages = [user(picture(3, "a"), picture(2, "b"), picture(3, "a"), "plan this")]

        async def plan(**fields: Any) -> chat_service_pb2.PlanTurnResponse:
            return await stack.chat.PlanTurn(chat_service_pb2.PlanTurnRequest(messages=messages, **fields))

        unknown = await plan()
        assert (unknown.tiles, unknown.tiles_to_encode) == (8, 5)
        assert (unknown.cached_tokens, unknown.expected_wait_ms) == (7, 1.5)
        assert (unknown.kv_bytes, unknown.kv_budget_bytes, unknown.fits) == (13_800, 15_000, True)
        assert not (await plan(max_tokens=13)).fits  # nor do its keys and values
        await _events(stack, chat_service_pb2.ChatRequest(messages=messages))
        assert (await plan()).tiles_to_encode == 0
        name = next(iter(stack.llm.cached))
        stack.llm.cached[name] -= 1
        assert (await plan()).tiles_to_encode == 1


@bounded
async def test_a_tile_budget_leaves_each_new_picture_fewer_tiles() -> None:
    async with gateway_stack() as stack:
        request = chat_request(picture(6, "a"), picture(2, "b"), "look", tile_budget=6)
        plan = await stack.chat.PlanTurn(
            chat_service_pb2.PlanTurnRequest(messages=request.messages, tile_budget=6)
        )
        assert [layout.tiles for layout in plan.layouts] == [3, 2]
        started = (await _events(stack, request))[0].started
        assert [layout.tiles for layout in started.layouts] == [3, 2]
        request.tile_budget = 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _events(stack, request)
        assert caught.value.details() == "tile_budget: must be at least 2"


@bounded
async def test_plan_that_fills_the_context_does_not_fit() -> None:
    async with gateway_stack() as stack:
        plan = await stack.chat.PlanTurn(
            chat_service_pb2.PlanTurnRequest(messages=[user(picture(12), "big")])
        )
        assert plan.prompt_tokens == 202
        assert not plan.fits


async def _events(stack: Stack, request: chat_service_pb2.ChatRequest) -> list[Any]:
    return [event async for event in stack.chat.Chat(request)]
