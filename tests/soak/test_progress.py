"""Nobody stands still for somebody else's encoder or prompt; over real gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from internvl.v1 import llm_service_pb2
from tests.contract.llm_client import Service, Stream, llm_service, opening, tile, user, visual
from tests.unit.event_loop import bounded
from tests.unit.llm_samples import write_tiny_model

POSITIONS = 4096
BUDGET = 128
LONG_PROMPT = 2000
LASTING = {"max_tokens": 1500, "min_tokens": 1500}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with room for long prompts."""
    return write_tiny_model(
        tmp_path_factory.mktemp("model") / "tiny",
        max_position_embeddings=POSITIONS,
        original_max_position_embeddings=POSITIONS,
        rope_scaling=None,
    )


async def started(service: Service, text: str, log: list[str] | None = None) -> asyncio.Task[int]:
    """Read an answer to its end; its name goes into the log with every token. Returns behind the first."""
    stream = service.generate(opening(user(text), **LASTING))
    await stream.admitted()
    await stream.delta()

    async def read() -> int:
        tokens = 1
        while (response := await stream.read()).WhichOneof("message") == "delta":
            tokens += len(response.delta.token_ids)
            if log is not None:
                log.append(text)
        return tokens

    return asyncio.create_task(read())


@bounded
async def test_decoding_goes_on_beside_a_long_prefill(folder: Path) -> None:
    log: list[str] = []
    async with llm_service(folder, step_token_budget=BUDGET, max_running=4) as service:
        decoding = [await started(service, text, log) for text in ("one", "two")]
        stream = service.generate(opening(user("shape " * 750), max_tokens=2))
        admitted = await stream.admitted()
        log.clear()
        await stream.delta()
        beside = list(log)
        for task in decoding:
            assert not task.done()  # or there was nothing to hold up
            task.cancel()
        stream.call.cancel()
    assert admitted.prompt_tokens >= LONG_PROMPT
    steps = admitted.prompt_tokens // BUDGET
    assert min(beside.count("one"), beside.count("two")) >= steps - 2  # messages on the way when counted


@bounded
async def test_a_stalled_encoder_stalls_only_its_own_request(folder: Path) -> None:
    """While one waits for tiles, another one goes through hundreds of steps; then the first goes on."""
    tiles = [tile("a", 0), tile("a", 1)]
    asked = opening(user(visual("a"), "What is this?"))
    async with llm_service(folder, max_running=4) as service:
        waiting = service.generate(asked)
        await waiting.admitted()
        await waiting.send(tiles[0])
        first = asyncio.create_task(_next(waiting))
        crowd = [await started(service, text) for text in ("one", "two", "three")]
        assert await asyncio.gather(*crowd) == [1500] * 3
        assert not first.done()
        await waiting.send(tiles[1])
        assert (await first).WhichOneof("message") == "delta"
        answer = await waiting.rest()
    assert answer.result.usage.completion_tokens == 6
    assert answer.result.timings.tile_wait_ms > 0


async def _next(stream: Stream) -> llm_service_pb2.GenerateResponse:
    return await stream.read()
