"""Visual embeddings on their way into the language service: exactly those asked for, and sound."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from internvl.errors import (
    DeadlineExceeded,
    InvalidField,
)
from internvl.rpc import error_from_rpc
from internvl.tensors import BFLOAT16, INT8, convert, from_proto, to_proto
from internvl.v1 import content_pb2, tensor_pb2
from tests.contract.llm_client import (
    IDLE,
    SHAPE,
    gauges,
    llm_service,
    opening,
    tile,
    user,
    visual,
)
from tests.unit.event_loop import bounded, until
from tests.unit.llm_samples import TOKENS_PER_TILE

ENDLESS = {"max_tokens": 350, "min_tokens": 350}


@bounded
async def test_late_tiles_hold_up_nobody_else(folder: Path) -> None:
    asked = opening(user(visual(), "What is this?"))
    tiles = [tile("a", 0), tile("a", 1)]
    async with llm_service(folder) as service:
        expected = await service.answer(asked, tiles)
        asked.cache_salt = "nothing is cached"
        waiting = service.generate(asked)
        admitted = await waiting.admitted()
        for sent in tiles:
            assert (await service.answer(opening(user("Hello")))).token_ids  # decodes beside the stalled one
            await waiting.send(sent)
        await waiting.call.done_writing()
        answer = await waiting.rest()
    assert [(need.visual_id, need.first_tile) for need in admitted.needed] == [("a", 0)]
    assert answer.token_ids == expected.token_ids
    assert answer.result.usage.visual_tokens == 2 * TOKENS_PER_TILE
    assert answer.result.timings.tile_wait_ms > expected.result.timings.tile_wait_ms
    assert answer.result.timings.prefill_ms > answer.result.timings.tile_wait_ms


@bounded
async def test_tiles_reach_the_model(folder: Path) -> None:
    asked = opening(user(visual(), "What is this?"))
    async with llm_service(folder) as service:
        answers = [await service.answer(asked, [tile("a", 0), tile("a", 1)]) for _ in range(2)]
        black = np.zeros(SHAPE, BFLOAT16)
        asked.cache_salt = "another"
        other = await service.answer(asked, [tile("a", 0, black), tile("a", 1, black)])
    assert answers[0].token_ids == answers[1].token_ids != other.token_ids


@bounded
async def test_a_picture_shown_twice_is_sent_once(folder: Path) -> None:
    asked = opening(user(visual("a"), visual("b", 1), visual("a"), "Compare."))
    tiles = [tile("a", 0), tile("a", 1), tile("b", 0)]
    async with llm_service(folder) as service:
        stream = service.generate(asked)
        admitted = await stream.admitted()
        await stream.send(*tiles)
        answer = await stream.rest()
    assert [need.visual_id for need in admitted.needed] == ["a", "b"]
    assert answer.result.usage.visual_tokens == 5 * TOKENS_PER_TILE


@bounded
async def test_a_film_is_a_grid_a_frame(folder: Path) -> None:
    film = visual(
        "film",
        kind=content_pb2.MEDIA_KIND_VIDEO,
        grids=[content_pb2.TileGrid(columns=1, rows=1)] * 3,
        tiles=3,
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
    )
    tiles = [tile("film", index, np.full(SHAPE, index, np.float32)) for index in range(3)]
    async with llm_service(folder) as service:
        answer = await service.answer(opening(user(film, "Which way?")), tiles)
    assert answer.result.usage.visual_tokens == 3 * TOKENS_PER_TILE


BAD_TILES: dict[str, tuple[list[content_pb2.Tile], str, str]] = {
    "unknown item": ([tile("x", 0)], "tile.visual_id", "not an item that is needed"),
    "another item": ([tile("b", 0)], "tile.visual_id", "another item is due"),
    "wrong order": ([tile("a", 1)], "tile.index", "tile 0 is due, got 1"),
    "again": ([tile("a", 0), tile("a", 0)], "tile.index", "tile 1 is due, got 0"),
    "shape": (
        [tile("a", 0, np.zeros((TOKENS_PER_TILE, 8), BFLOAT16))],
        "tile.embeddings.shape",
        "must be [4, 32], got [4, 8]",
    ),
    "type": ([tile("a", 0, np.zeros(SHAPE, np.float32))], "tile.embeddings.dtype", "DATA_TYPE_BFLOAT16"),
    "NaN": ([tile("a", 0, np.full(SHAPE, np.nan, BFLOAT16))], "tile.embeddings.data", "not finite"),
    "infinity": ([tile("a", 0, np.full(SHAPE, -np.inf, BFLOAT16))], "tile.embeddings.data", "not finite"),
    "nothing": ([content_pb2.Tile(visual_id="a")], "tile.embeddings.dtype", "BFLOAT16"),
}


@bounded
async def test_int8_tiles_are_the_numbers_they_stand_for(folder: Path) -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal(SHAPE).astype(np.float32)
    quantised = convert(values, INT8)
    exact = from_proto(to_proto(quantised), "tile")
    eight = visual("eight", 1, dtype=tensor_pb2.DATA_TYPE_INT8)
    same = visual("same", 1, dtype=tensor_pb2.DATA_TYPE_FLOAT32)
    async with llm_service(folder) as service:
        small = await service.answer(opening(user(eight, "Hello")), [tile("eight", 0, quantised)])
        large = await service.answer(opening(user(same, "Hello")), [tile("same", 0, exact)])
        broken = tile("eight2", 0, quantised)
        broken.embeddings.scales[1] = 3e38
        eight.visual.visual_id = "eight2"
        error = await service.error(opening(user(eight, "Hello")), [broken])
    assert small.token_ids == large.token_ids
    assert isinstance(error, InvalidField)
    assert error.field == "tile.embeddings.data"


@bounded
async def test_bad_tiles_fail_their_own_request(folder: Path) -> None:
    async with llm_service(folder) as service:
        healthy = service.generate(opening(user(visual("h", 1), "Hello")))
        await healthy.admitted()
        for name, (tiles, field, problem) in BAD_TILES.items():
            error = await service.error(opening(user(visual("a"), visual("b"), "Hello")), tiles)
            assert isinstance(error, InvalidField), name
            assert error.field == field, name
            assert problem in error.problem, name
        await healthy.send(tile("h", 0))
        assert (await healthy.rest()).token_ids
        await until(lambda: gauges() == IDLE)


@bounded
async def test_a_tile_too_many_is_refused(folder: Path) -> None:
    async with llm_service(folder) as service:
        for needed in (["a"], []):
            parts = [visual(name, 1) for name in needed]
            error = await service.error(
                opening(user(*parts, "Hello"), **ENDLESS), [*(tile(name, 0) for name in needed), tile("a", 1)]
            )
            assert isinstance(error, InvalidField)
            assert error.field == "tile"
            assert f"all {len(needed)} tiles" in error.problem


@bounded
async def test_closing_before_the_last_tile_is_an_error_at_once(folder: Path) -> None:
    async with llm_service(folder) as service:
        stream = service.generate(opening(user(visual(), "Hello")))
        await stream.admitted()
        await stream.send(tile("a", 0))
        await stream.call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.rest()
    error = error_from_rpc(failed.value, "language service")
    assert isinstance(error, InvalidField)
    assert error.problem == "the stream was closed after 1 of 2 tiles"


@bounded
async def test_a_tile_that_does_not_come_times_out(folder: Path) -> None:
    async with llm_service(folder, tile_timeout_s=0.3) as service:
        error = await service.error(opening(user(visual(), "Hello")), [tile("a", 0)])
        assert isinstance(error, DeadlineExceeded)
        assert error.reason == "TILE_TIMEOUT"
        assert error.message == "tile 1 did not come within 0.3 s"
        assert error.metadata == {"visual_id": "a", "tile": "1"}
        await until(lambda: gauges() == IDLE)
