"""The embeddings of one request on their way to its reader."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vision_service.batcher import TileJob, TileQueue
from vision_service.embedding_cache import CachedTile, EmbeddingCache, Embeddings


@dataclass(frozen=True, slots=True)
class NamedTiles:
    """Decoded tiles.

    Attributes:
        pixels: [tiles, S, S, 3].
        names: of their embeddings; see `vision_service.visual_id`.
        dtype: element type of the embeddings.
    """

    pixels: NDArray[np.uint8]
    names: Sequence[bytes]
    dtype: np.dtype[Any]


class TileStream(Protocol):
    """Embeddings of the wanted tiles, in order. Iterate once; close it in any case."""

    def __aiter__(self) -> AsyncIterator[Embeddings]:
        """Yield each tile's embeddings as soon as they are there.

        Raises:
            InternalError: the model failed on a tile.
            Unavailable: the service is stopping.
        """

    def close(self) -> None:
        """Let go of everything. What nobody else wants leaves the queue before it runs."""


class KeptTiles:
    """Tiles that are all in the cache."""

    def __init__(self, tiles: Sequence[CachedTile], cache: EmbeddingCache) -> None:
        self._tiles = deque(tiles)
        self._cache = cache

    async def __aiter__(self) -> AsyncIterator[Embeddings]:
        while self._tiles:
            yield await self._tiles[0].result()
            if self._tiles:  # unless closed meanwhile
                self._cache.release(self._tiles.popleft())

    def close(self) -> None:
        while self._tiles:
            self._cache.release(self._tiles.popleft())


class EncodedTiles:
    """Tiles that the encoder computes, as far as the cache has not got them.

    Only so many are computed and kept ahead of the reader: one who stalls holds no more memory than that.
    """

    def __init__(
        self,
        tiles: NamedTiles,
        first_tile: int,
        ahead: int,
        queue: TileQueue[CachedTile],
        cache: EmbeddingCache,
    ) -> None:
        """
        Args:
            tiles: all tiles of the item.
            first_tile: number of the first one wanted.
            ahead: most tiles held at any time.

        Raises:
            Overloaded: the queue is full.
            Unavailable: the service is stopping.
        """
        self._left = deque(zip(tiles.names[first_tile:], tiles.pixels[first_tile:], strict=True))
        self._dtype = tiles.dtype
        self._ahead = ahead
        self._held: deque[CachedTile] = deque()
        self._queue = queue
        self._cache = cache
        self._job: TileJob[CachedTile] = queue.open(len(self._left))

    async def __aiter__(self) -> AsyncIterator[Embeddings]:
        self._advance()
        while self._held:
            yield await self._held[0].result()
            if self._held:  # unless closed meanwhile
                self._cache.release(self._held.popleft())
                self._advance()

    def close(self) -> None:
        self._left.clear()
        self._queue.cancel(self._job)
        while self._held:
            self._cache.release(self._held.popleft())

    def _advance(self) -> None:
        """Hold the next tiles, and have encoded what nobody has had encoded."""
        offered = []
        while self._left and len(self._held) < self._ahead:
            name, pixels = self._left.popleft()
            tile = self._cache.acquire(name, pixels, self._dtype)
            self._held.append(tile)
            if tile.started:
                self._queue.skip(self._job)
            else:
                offered.append(tile)
        if offered:
            self._queue.offer(self._job, offered)
