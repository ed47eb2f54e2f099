"""What the embedding cache keeps, shares and forgets, without a model or a service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import BadMedia, InternalError
from internvl.tensors import BFLOAT16
from tests.unit.event_loop import bounded, until
from vision_service.embedding_cache import CachedItem, CachedTile, EmbeddingCache
from vision_service.shared_work import SharedWork
from vision_service.visual_id import EncoderIdentity, tile_names

PIXELS = np.zeros((2, 2, 3), np.uint8)
TILE_BYTES = 100


def acquire(cache: EmbeddingCache, name: bytes) -> CachedTile:
    return cache.acquire(name, PIXELS, BFLOAT16)


def encode(cache: EmbeddingCache, tile: CachedTile) -> None:
    tile.started = True
    cache.finish(tile, np.zeros(TILE_BYTES, np.uint8))


def keep(cache: EmbeddingCache, *names: bytes) -> None:
    for name in names:
        tile = acquire(cache, name)
        encode(cache, tile)
        cache.release(tile)


def is_kept(cache: EmbeddingCache, name: bytes) -> bool:
    tiles = cache.acquire_all([name])
    for tile in tiles or ():
        cache.release(tile)
    return tiles is not None


@bounded
async def test_everybody_who_asks_meanwhile_has_the_same_tile() -> None:
    cache = EmbeddingCache(1000)
    tiles = [acquire(cache, b"a") for _ in range(3)]
    assert tiles[0] is tiles[1] is tiles[2]
    waiting = [asyncio.ensure_future(tile.result()) for tile in tiles]
    encode(cache, tiles[0])
    assert len({id(await each) for each in waiting}) == 1


@bounded
async def test_a_failure_reaches_those_who_wait_and_is_not_kept() -> None:
    cache = EmbeddingCache(1000)
    tile = acquire(cache, b"a")
    tile.started = True
    cache.fail(tile, InternalError("no"))
    with pytest.raises(InternalError):
        await tile.result()
    again = acquire(cache, b"a")
    assert again is not tile
    cache.release(tile)
    encode(cache, again)
    assert (await again.result()).nbytes == TILE_BYTES


@bounded
async def test_what_nobody_wants_any_more_is_not_waited_for() -> None:
    cache = EmbeddingCache(1000)
    dropped = acquire(cache, b"a")
    cache.release(dropped)
    assert acquire(cache, b"a") is not dropped
    running = acquire(cache, b"b")
    running.started = True
    cache.release(running)
    assert acquire(cache, b"b") is running


@bounded
async def test_the_least_recently_used_go_first_and_those_in_use_stay() -> None:
    cache = EmbeddingCache(3 * TILE_BYTES)
    keep(cache, b"a", b"b", b"c")
    held = acquire(cache, b"a")
    keep(cache, b"d", b"e")
    assert [is_kept(cache, name) for name in (b"a", b"b", b"c", b"d", b"e")] == [
        True,
        False,
        False,
        True,
        True,
    ]
    cache.release(held)
    assert is_kept(cache, b"d")
    keep(cache, b"f")
    assert [is_kept(cache, name) for name in (b"a", b"d", b"e", b"f")] == [True, True, False, True]


@bounded
async def test_no_budget_keeps_nothing_beyond_use() -> None:
    cache = EmbeddingCache(0)
    tile = acquire(cache, b"a")
    encode(cache, tile)
    assert acquire(cache, b"a") is tile
    cache.release(tile)
    assert cache.size == TILE_BYTES
    cache.release(tile)
    assert cache.size == 0


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(["use", "encode", "leave", "fail"]), st.integers(0, 9))),
)
def test_bytes_are_those_of_what_is_there(budget: int, steps: list[tuple[str, int]]) -> None:
    """Beyond the budget lies only what is in use, and when nobody uses anything all is within it."""

    async def scenario() -> None:
        cache = EmbeddingCache(budget * TILE_BYTES)
        held: list[CachedTile] = []
        for action, number in steps:
            if action == "use":
                held.append(acquire(cache, bytes([number])))
            elif held:
                tile = held[number % len(held)]
                if action == "leave":
                    held.remove(tile)
                    cache.release(tile)
                elif not tile.started:
                    if action == "encode":
                        encode(cache, tile)
                    else:
                        tile.started = True
                        cache.fail(tile, InternalError("no"))
            in_use = {id(tile) for tile in held if tile.embeddings is not None}
            assert len(in_use) * TILE_BYTES <= cache.size <= max(budget, len(in_use)) * TILE_BYTES
        for tile in held:
            cache.release(tile)
        kept = sum(is_kept(cache, bytes([number])) for number in range(10))
        assert cache.size == kept * TILE_BYTES <= budget * TILE_BYTES

    asyncio.run(scenario())


@bounded
async def test_an_item_is_remembered_by_its_name() -> None:
    cache = EmbeddingCache(1000)
    item = CachedItem((), (b"a",))
    cache.remember("x", item)
    assert cache.find("x") is item
    assert cache.find("y") is None


def test_names_of_tiles_tell_pixels_weights_and_element_types_apart() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    tiles[2] = tiles[0]
    identity = EncoderIdentity("weights")
    names = tile_names(tiles, identity, "bfloat16")
    assert names[0] == names[2] != names[1]
    assert tile_names(tiles[2:], identity, "bfloat16") == names[2:]
    others = [
        tile_names(tiles, identity, "float32"),
        tile_names(tiles, identity, "int8"),
        tile_names(tiles, EncoderIdentity("others"), "bfloat16"),
        tile_names(tiles, EncoderIdentity("weights", "next"), "bfloat16"),
        tile_names(tiles.reshape(3, 2, 8, 3), identity, "bfloat16"),
        tile_names(tiles ^ np.uint8(1), identity, "bfloat16"),
    ]
    assert len({name for each in [names, *others] for name in each}) == 2 * 7


class Work:
    """Counts how often it is done; goes on when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.calls


async def use(shared: SharedWork[str, int], do: Callable[..., object]) -> int:
    with shared.use("key", do) as result:  # type: ignore[arg-type]
        return await result


@bounded
async def test_work_outlives_whoever_asked_first() -> None:
    shared, work = SharedWork[str, int](), Work()
    first, second = (asyncio.ensure_future(use(shared, work)) for _ in range(2))
    await until(lambda: work.calls)
    first.cancel()
    await asyncio.wait([first])
    work.gate.set()
    assert await second == 1
    assert work.cancelled == 0


@bounded
async def test_work_that_nobody_waits_for_is_cancelled_and_done_anew_for_the_next() -> None:
    shared, work = SharedWork[str, int](), Work()
    alone = asyncio.ensure_future(use(shared, work))
    await until(lambda: work.calls)
    alone.cancel()
    await until(lambda: work.cancelled)
    work.gate.set()
    assert await use(shared, work) == 2


@bounded
async def test_a_result_is_shared_while_it_is_in_use() -> None:
    shared, work = SharedWork[str, int](), Work()
    work.gate.set()
    with shared.use("key", work) as result:
        assert await result == 1
        assert await use(shared, work) == 1
    assert await use(shared, work) == 2


@bounded
async def test_failed_work_fails_those_who_wait_and_nobody_else() -> None:
    shared, gate = SharedWork[str, int](), asyncio.Event()

    async def fail() -> int:
        await gate.wait()
        raise BadMedia("chunk", "no")

    waiting = [asyncio.ensure_future(use(shared, fail)) for _ in range(2)]
    await asyncio.sleep(0)
    gate.set()
    assert [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == [BadMedia] * 2
    work = Work()
    work.gate.set()
    assert await use(shared, work) == 1
