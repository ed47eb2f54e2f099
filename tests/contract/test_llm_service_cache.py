"""What the language service keeps of earlier requests, and what comes of too little room for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from internvl.v1 import content_pb2, llm_service_pb2
from kernels.paged import KvDtype
from tests.contract.llm_client import (
    BLOCK_TOKENS,
    IDLE,
    Service,
    counter,
    gauges,
    llm_service,
    message,
    opening,
    room_for,
    tile,
    user,
    visual,
)
from tests.unit.event_loop import bounded, until

PICTURE = visual(columns=3, rows=3)
TILES = [tile("a", index) for index in range(9)]
QUESTION = user(PICTURE, "What is this?")


async def admitted(service: Service, asked: llm_service_pb2.GenerateOpen) -> llm_service_pb2.Admitted:
    """What a request is told before it is cancelled."""
    stream = service.generate(asked)
    found = await stream.admitted()
    stream.call.cancel()
    await until(lambda: gauges() == IDLE)
    return found


@bounded
async def test_a_second_turn_about_a_picture_needs_no_tiles(folder: Path) -> None:
    async with llm_service(folder) as service:
        first = await service.answer(opening(QUESTION), TILES)
        turns = [QUESTION, message(content_pb2.ROLE_ASSISTANT, first.text), user("Are you sure?")]
        stream = service.generate(opening(*turns))
        found = await stream.admitted()
        second = await stream.rest()  # nothing is sent
        salted = opening(*turns)
        salted.cache_salt = "alone"
        expected = await service.answer(salted, TILES)
    assert list(found.needed) == []
    assert 0 < found.cached_tokens < found.prompt_tokens
    assert found.cached_tokens % BLOCK_TOKENS == 0
    assert second.result.usage.cached_tokens == found.cached_tokens
    assert second.token_ids == expected.token_ids
    assert expected.result.usage.cached_tokens == 0


@bounded
async def test_only_tiles_behind_the_hit_are_needed(folder: Path) -> None:
    async with llm_service(folder) as service:
        stream = service.generate(opening(QUESTION))
        prompt = (await stream.admitted()).prompt_tokens
        await stream.send(*TILES[:8])  # the prompt is computed, and kept, as far as these reach
        await until(lambda: (gauges()[2] or 0) >= prompt - 40)
        stream.call.cancel()
        await until(lambda: gauges() == IDLE)
        found = await admitted(service, opening(QUESTION))
        whole = await service.answer(opening(QUESTION), TILES)
        salted = opening(QUESTION)
        salted.cache_salt = "alone"
        assert (await service.answer(salted, TILES)).token_ids == whole.token_ids
    ((visual_id, first_tile),) = [(need.visual_id, need.first_tile) for need in found.needed]
    assert visual_id == "a"
    assert 0 < first_tile <= 8


@bounded
async def test_salts_share_nothing_and_no_cache_keeps_nothing(folder: Path) -> None:
    salted, other = opening(QUESTION), opening(QUESTION)
    salted.cache_salt, other.cache_salt = "one", "two"
    async with llm_service(folder) as service:
        await service.answer(salted, TILES)
        assert (await admitted(service, salted)).cached_tokens > 0
        assert (await admitted(service, other)).cached_tokens == 0
        assert (await admitted(service, opening(QUESTION))).cached_tokens == 0
    async with llm_service(folder, prefix_cache=False) as service:
        await service.answer(opening(QUESTION), TILES)
        found = await admitted(service, opening(QUESTION))
    assert (found.cached_tokens, [need.first_tile for need in found.needed]) == (0, [0])


@bounded
async def test_another_picture_is_never_taken_for_a_cached_one(folder: Path) -> None:
    async with llm_service(folder) as service:
        await service.answer(opening(QUESTION), TILES)
        found = await admitted(service, opening(user(visual("b", 3, 3), "What is this?")))
        assert [(need.visual_id, need.first_tile) for need in found.needed] == [("b", 0)]


@bounded
async def test_too_little_room_puts_answers_back_and_changes_none(folder: Path) -> None:
    asked = [opening(user(f"Tell me more about {n}"), max_tokens=60, min_tokens=60) for n in range(4)]
    async with llm_service(folder, batch_invariant=True) as service:
        alone = [await service.answer(one) for one in asked]
    before = counter("preemptions_total") or 0
    async with llm_service(folder, kv_budget=room_for(320), batch_invariant=True) as service:
        together = await asyncio.gather(*map(service.answer, asked))
        assert gauges() == IDLE
    assert (counter("preemptions_total") or 0) > before
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


@pytest.mark.parametrize("high", [1, 10])
@bounded
async def test_the_higher_priority_goes_first(folder: Path, high: int) -> None:
    async with llm_service(folder, max_running=1, aging_s=1000.0) as service:
        holds = service.generate(opening(user(visual("h", 1), "Hello")))
        await holds.admitted()
        ended: list[int] = []

        async def ask(priority: int) -> None:
            asked = opening(user("Hello"))
            asked.priority = priority
            await service.answer(asked)
            ended.append(priority)

        tasks = []
        for waiting, priority in enumerate((0, -1, high)):
            tasks.append(asyncio.create_task(ask(priority)))
            await until(lambda count=waiting + 1: gauges()[0] == count)
        await holds.send(tile("h", 0))
        await holds.rest()
        await asyncio.gather(*tasks)
    assert ended == [high, 0, -1]


@pytest.mark.parametrize(
    ("name", "kept", "close"), [("bf16", KvDtype.BFLOAT16, 0.05), ("int8", KvDtype.INT8, 0.1)]
)
@bounded
async def test_keys_and_values_kept_smaller_move_likelihoods_a_little(
    folder: Path, name: str, kept: KvDtype, close: float
) -> None:
    asked = opening(QUESTION, logprobs=1, max_tokens=2)
    async with llm_service(folder) as service:
        exact = await service.answer(asked, TILES)
    async with llm_service(folder, kv_dtype=kept) as service:
        info = await service.stub.ModelInfo(llm_service_pb2.ModelInfoRequest())
        rounded = await service.answer(asked, TILES)
    assert info.kv_dtype == name
    moved = abs(rounded.logprobs[0].top[0].logprob - exact.logprobs[0].top[0].logprob)
    assert 0 < moved < close
