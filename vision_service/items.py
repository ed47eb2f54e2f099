"""From a whole file to the embeddings of its tiles, by the shortest way that is open."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InvalidField
from vision_service.decoding import MediaDecoder
from vision_service.embedding_cache import CachedItem, EmbeddingCache
from vision_service.encoder import Encoder
from vision_service.requests import EncodeParameters
from vision_service.shared_work import SharedWork
from vision_service.tile_stream import KeptTiles, NamedTiles, TileStream
from vision_service.tiling import TileGrid
from vision_service.upload import Upload
from vision_service.visual_id import EncoderIdentity, tile_names, visual_id

# Hashing so many bytes takes half a millisecond; more is done off the event loop.
_QUICK_HASH_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class OpenItem:
    """An item on its way.

    Attributes:
        tiles: the embeddings from the first wanted tile on.
        decode_s: seconds until its tiles were known.
    """

    visual_id: str
    grids: tuple[TileGrid, ...]
    tiles: TileStream
    decode_s: float


@dataclass(frozen=True, slots=True)
class _DecodedItem:
    grids: tuple[TileGrid, ...]
    tiles: NamedTiles


class Items:
    """Finds items in the cache, shares the decoding of those under way, and has the rest encoded."""

    def __init__(
        self, identity: EncoderIdentity, encoder: Encoder, decoder: MediaDecoder, cache: EmbeddingCache
    ) -> None:
        self._identity = identity
        self._encoder = encoder
        self._decoder = decoder
        self._cache = cache
        self._decoded: SharedWork[str, _DecodedItem] = SharedWork()

    async def open(self, upload: Upload, parameters: EncodeParameters, held: ExitStack) -> OpenItem:
        """Begin to encode an item.

        Args:
            held: closes what the item holds.

        Raises:
            BadMedia, InvalidField: as `MediaDecoder.decode`; or there is no such `first_tile`.
            Overloaded, Unavailable: as `Encoder.encode`.
        """
        started = time.monotonic()
        name = visual_id(upload.content_hash, parameters.options, self._identity, parameters.dtype.name)
        grids, tiles = self._find(name, parameters.first_tile) or await self._decode(
            name, upload, parameters, held
        )
        held.callback(tiles.close)
        return OpenItem(name, grids, tiles, time.monotonic() - started)

    def _find(self, name: str, first_tile: int) -> tuple[tuple[TileGrid, ...], TileStream] | None:
        item = self._cache.find(name)
        if item is None:
            return None
        _check_first_tile(first_tile, len(item.names))
        kept = self._cache.acquire_all(item.names[first_tile:])
        return None if kept is None else (item.grids, KeptTiles(kept, self._cache))

    async def _decode(
        self, name: str, upload: Upload, parameters: EncodeParameters, held: ExitStack
    ) -> tuple[tuple[TileGrid, ...], TileStream]:
        async def decode() -> _DecodedItem:
            media = await self._decoder.decode(upload.data, parameters.options)
            names = await self._names(media.tiles, parameters.dtype)
            self._cache.remember(name, CachedItem(media.grids, names))
            return _DecodedItem(media.grids, NamedTiles(media.tiles, names, parameters.dtype))

        item = await held.enter_context(self._decoded.use(name, decode))
        _check_first_tile(parameters.first_tile, len(item.tiles.names))
        return item.grids, self._encoder.encode(item.tiles, parameters.first_tile)

    async def _names(self, tiles: NDArray[np.uint8], dtype: np.dtype[Any]) -> tuple[bytes, ...]:
        if tiles.nbytes <= _QUICK_HASH_BYTES:
            return tile_names(tiles, self._identity, dtype.name)
        return await asyncio.to_thread(tile_names, tiles, self._identity, dtype.name)


def _check_first_tile(first_tile: int, tiles: int) -> None:
    if first_tile >= tiles:
        raise InvalidField("open.first_tile", f"must be 0 to {tiles - 1}, the last tile, got {first_tile}")
