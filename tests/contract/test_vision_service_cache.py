"""What the vision service computes once: repeated, shared and equal pictures; and that it mixes up none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import pytest
from PIL import Image

from internvl.errors import InvalidField
from internvl.tensors import from_proto
from internvl.v1 import content_pb2, tensor_pb2
from tests.contract.vision_samples import (
    Encoded,
    Open,
    Stub,
    collect,
    encode,
    held_model,
    image,
    refusal,
    requests,
    small_config,
    video,
    vision_stub,
    write_small_checkpoint,
)
from tests.unit.event_loop import bounded, until
from tests.unit.media_samples import encoded, film, picture

FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32
BFLOAT16 = tensor_pb2.DATA_TYPE_BFLOAT16
INT8 = tensor_pb2.DATA_TYPE_INT8


def metric(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(f"internvl_vision_{name}", labels) or 0.0


@dataclass(slots=True)
class Cost:
    """Files decoded and tiles encoded."""

    files: int = 0
    tiles: int = 0


@contextmanager
def cost(kind: str = "image") -> Iterator[Cost]:
    """What the service does during the block."""

    def now() -> tuple[float, float]:
        return metric("decode_seconds_count", kind=kind), metric("encoded_tiles_total")

    spent, before = Cost(), now()
    yield spent
    spent.files, spent.tiles = (int(after - was) for after, was in zip(now(), before, strict=True))


def of_type(dtype: tensor_pb2.DataType.ValueType, **options: Any) -> Open:
    return Open(image=content_pb2.ImageOptions(**options), dtype=dtype)


def wire(answer: Encoded) -> list[bytes]:
    return [tile.SerializeToString(deterministic=True) for tile in answer.tiles]


def numbers(answer: Encoded) -> np.ndarray:
    return np.stack([from_proto(tile.embeddings, "tile").astype(np.float32) for tile in answer.tiles])


def test_a_repeated_picture_is_neither_decoded_nor_encoded(vision: Stub) -> None:
    data = encoded(picture(170, 120, seed=100))
    with cost() as first:
        answer = encode(vision, image(), data)
    with cost() as second:
        again = encode(vision, image(max_tiles=12), data)
    assert (first.files, first.tiles) == (1, 7)
    assert (second.files, second.tiles) == (0, 0)
    assert again.layout == answer.layout
    assert wire(again) == wire(answer)
    with cost() as rest:
        late = encode(vision, Open(image=content_pb2.ImageOptions(), first_tile=4), data)
        beyond = Open(image=content_pb2.ImageOptions(), first_tile=7)
        error = refusal(lambda: list(vision.Encode(requests(beyond, data), timeout=30)))
    assert (rest.files, rest.tiles) == (0, 0)
    assert wire(late) == wire(answer)[4:]
    assert isinstance(error, InvalidField)
    assert error.message == "open.first_tile: must be 0 to 6, the last tile, got 7"


def test_a_repeated_film_costs_nothing(vision: Stub) -> None:
    data = film(24)
    first = encode(vision, video(frames=3), data)
    with cost("video") as spent:
        again = encode(vision, video(frames=3), data)
    assert spent == Cost()
    assert wire(again) == wire(first)


def test_equal_pixels_are_encoded_once_whatever_file_they_are_in(vision: Stub) -> None:
    pixels = picture(170, 120, seed=101)
    first = encode(vision, image(), encoded(pixels, "PNG"))
    with cost() as spent:
        other = encode(vision, image(), encoded(pixels, "BMP"))
        fewer = encode(vision, image(max_tiles=1), encoded(pixels, "BMP"))
    assert (spent.files, spent.tiles) == (2, 0)
    assert other.layout.visual_id != first.layout.visual_id != fewer.layout.visual_id
    assert np.array_equal(numbers(other), numbers(first))
    assert np.array_equal(numbers(fewer)[0], numbers(first)[-1])  # the thumbnail is the picture as one tile


def test_blank_tiles_are_encoded_once(vision: Stub) -> None:
    with cost() as spent:
        answer = encode(vision, image(), encoded(Image.new("RGB", (170, 120), (1, 2, 3))))
    assert spent.tiles == 1
    assert len(answer.tiles) == 7
    assert len({tile.embeddings.data for tile in answer.tiles}) == 1


def test_other_options_and_element_types_never_hit(vision: Stub) -> None:
    """In any order: each has the embeddings it has where nothing was cached."""
    data = encoded(picture(170, 120, seed=102))
    for dtype in (INT8, BFLOAT16, FLOAT32, INT8, FLOAT32, BFLOAT16):
        for options in ({}, {"max_tiles": 4}, {"thumbnail": False}, {"max_tiles": 1}):
            answer = encode(vision, of_type(dtype, **options), data)
            assert {tile.embeddings.dtype for tile in answer.tiles} == {dtype}
            fresh = encode(vision, of_type(FLOAT32, **options), encoded(picture(170, 120, seed=102), "TIFF"))
            assert fresh.layout.grids == answer.layout.grids
            tolerance = {FLOAT32: 0, BFLOAT16: 2**-8, INT8: 1 / 127}[dtype]
            largest = np.abs(numbers(fresh)).max(axis=-1, keepdims=True)
            assert (np.abs(numbers(answer) - numbers(fresh)) <= tolerance * largest).all()


@bounded
async def test_other_weights_never_hit(vision_checkpoint: Path, tmp_path: Path) -> None:
    data = encoded(picture(170, 120, seed=103))
    answers = []
    for folder in (vision_checkpoint, write_small_checkpoint(tmp_path / "other", seed=4)):
        async with vision_stub(small_config(folder)) as stub:
            answers.append(collect([each async for each in stub.Encode(requests(image(), data), timeout=60)]))
    assert answers[0].layout.visual_id != answers[1].layout.visual_id
    assert not np.allclose(numbers(answers[0]), numbers(answers[1]))


@pytest.mark.parametrize("leaves", [False, True])
def test_who_asks_for_a_picture_under_way_waits_for_it(vision_checkpoint: Path, leaves: bool) -> None:
    """It is decoded once and encoded once, also if the one who asked first goes away."""

    @bounded
    async def scenario() -> None:
        data = encoded(picture(170, 120, seed=104))
        model = held_model(vision_checkpoint)
        with cost() as spent:
            async with vision_stub(small_config(vision_checkpoint), model) as stub:
                calls = [stub.Encode(requests(image(), data), timeout=60) for _ in range(4)]
                streams = [aiter(call) for call in calls]
                for stream in streams:
                    assert (await anext(stream)).HasField("layout")
                await until(model.hold.began.is_set)
                if leaves:
                    calls.pop(0).cancel()
                    streams.pop(0)
                    await until(lambda: metric("open_requests") == 3)
                model.hold.gate.set()
                answers = [
                    [each.tile async for each in stream if each.HasField("tile")] for stream in streams
                ]
        assert all([tile.index for tile in tiles] == list(range(7)) for tiles in answers)
        assert all(tiles == answers[0] for tiles in answers)
        assert spent == Cost(files=1, tiles=7)

    scenario()


@bounded
async def test_a_failure_is_told_to_all_who_wait_and_not_kept(vision_checkpoint: Path) -> None:
    data = encoded(picture(170, 120, seed=105))
    model = held_model(vision_checkpoint)
    model.hold.failures = 1
    async with vision_stub(small_config(vision_checkpoint), model) as stub:

        async def tiles() -> int:
            call = stub.Encode(requests(image(max_tiles=1), data), timeout=60)
            return sum([each.HasField("tile") async for each in call])

        waiting = [asyncio.ensure_future(tiles()) for _ in range(2)]
        await until(model.hold.began.is_set)
        await until(lambda: metric("open_requests") == 2)
        model.hold.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert any(isinstance(result, BaseException) for result in results)
        assert await tiles() == 1


@bounded
async def test_the_budget_bounds_what_is_kept(vision_checkpoint: Path) -> None:
    photos = [encoded(picture(60, 60, seed=number)) for number in range(6)]
    for tiles, costs in ((0, 6), (2, 6), (6, 0)):
        one_tile = 4 * 48 * 2  # tokens, channels, bytes
        config = replace(small_config(vision_checkpoint), embedding_cache_bytes=tiles * one_tile)
        async with vision_stub(config) as stub:
            rounds = [await cost_of_round(stub, photos) for _ in range(2)]
            await until(lambda most=tiles * one_tile: metric("cache_bytes") <= most)
        assert [spent.tiles for spent in rounds] == [6, costs]


async def cost_of_round(stub: Stub, photos: list[bytes]) -> Cost:
    with cost() as spent:
        for data in photos:
            collect([each async for each in stub.Encode(requests(image(), data), timeout=60)])
    return spent
