"""What CountTokens tells of cache, memory and queue, without a step of the model."""

from __future__ import annotations

from pathlib import Path

from internvl.v1 import llm_service_pb2
from tests.contract.llm_client import BLOCK_BYTES, BLOCK_TOKENS, llm_service, opening, tile, user, visual
from tests.unit.event_loop import bounded

TILES = [tile("a", 0), tile("a", 1)]


def count(asked: llm_service_pb2.GenerateOpen, **fields: object) -> llm_service_pb2.CountTokensRequest:
    return llm_service_pb2.CountTokensRequest(messages=asked.messages, **fields)  # type: ignore[arg-type]


@bounded
async def test_a_count_foretells_what_generate_admits(folder: Path) -> None:
    async with llm_service(folder) as service:
        asked = opening(user(visual(), "What is this? " * 8), max_tokens=4)
        before = await service.stub.CountTokens(count(asked))
        assert (before.cached_tokens, [need.first_tile for need in before.needed]) == (0, [0])
        await service.answer(asked, TILES)
        after = await service.stub.CountTokens(count(asked))
        again = await service.generate(asked).admitted()
        assert after.cached_tokens == again.cached_tokens > 0
        assert list(after.needed) == list(again.needed)
        assert after.prompt_tokens == again.prompt_tokens
        salted = await service.stub.CountTokens(count(asked, cache_salt="other"))
        assert salted.cached_tokens == 0


@bounded
async def test_memory_is_counted_in_whole_blocks_for_prompt_and_answer(folder: Path) -> None:
    async with llm_service(folder) as service:
        asked = opening(user("Hi"))
        small = await service.stub.CountTokens(count(asked, max_tokens=1))
        large = await service.stub.CountTokens(count(asked, max_tokens=1 + BLOCK_TOKENS))
        blocks = -(-(small.prompt_tokens + 1) // BLOCK_TOKENS)
        assert small.kv_bytes == blocks * BLOCK_BYTES
        assert large.kv_bytes == small.kv_bytes + BLOCK_BYTES
        assert small.kv_budget_bytes % BLOCK_BYTES == 0
        assert small.kv_budget_bytes > 0
        assert small.expected_wait_ms == 0
