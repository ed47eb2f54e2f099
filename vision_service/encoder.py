"""The compute thread: the only one that touches the model, and so the only one that touches Paddle."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError, Unavailable
from internvl.telemetry import get_logger
from internvl.tensors import convert
from vision_service import metrics
from vision_service.batcher import TileQueue
from vision_service.embedding_cache import CachedTile, EmbeddingCache, Embeddings
from vision_service.preprocessing import normalise
from vision_service.tile_stream import EncodedTiles, NamedTiles

_log = get_logger("encoder")


class TileModel(Protocol):
    """What the thread runs."""

    def encode(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, 3, S, S], normalised, to [n, tokens_per_tile, hidden_size]."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Settings of the compute thread.

    Attributes:
        batch_tiles: most tiles of one batch. More of them fill an accelerator better; fewer let a new request
            begin sooner.
        max_queued_tiles: most decoded tiles waiting in memory.
        tiles_ahead: most tiles of one request that are encoded before its client reads them.
    """

    batch_tiles: int = 4
    max_queued_tiles: int = 1024
    tiles_ahead: int = 16


class Encoder:
    """Encodes tiles on one dedicated thread, batched over requests without a timer."""

    def __init__(self, load: Callable[[], TileModel], config: EncoderConfig, cache: EmbeddingCache) -> None:
        """
        Args:
            load: builds the model; called on the compute thread, because Paddle's device is the thread's.
            config: batch size and bounds.
            cache: where embeddings go, and where tiles are found that need no encoding.
        """
        self._load = load
        self._config = config
        self._cache = cache
        self._queue: TileQueue[CachedTile] = TileQueue(config.max_queued_tiles)
        # Seconds of finished batches, and when the running one began: one value, as other threads read it.
        self._busy: tuple[float, float | None] = (0.0, None)
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._loaded: asyncio.Future[None]

    async def start(self) -> None:
        """Load the model and begin to compute.

        Raises:
            Whatever loading raises, for example CheckpointError or ConfigError.
        """
        self._loop = asyncio.get_running_loop()
        self._loaded = self._loop.create_future()
        metrics.QUEUED_TILES.set_function(lambda: self._queue.depth)
        metrics.CACHE_BYTES.set_function(lambda: self._cache.size)
        self._thread.start()
        await self._loaded

    async def stop(self) -> None:
        """Finish the running batch and end the thread; whoever still waits gets Unavailable."""
        for tile in self._queue.close():
            self._cache.fail(tile, Unavailable("the vision service is stopping"))
        await asyncio.to_thread(self._thread.join)

    def busy_seconds(self) -> float:
        """Seconds it has computed until now; from any thread."""
        finished_s, began = self._busy
        return finished_s if began is None else finished_s + time.monotonic() - began

    def encode(self, tiles: NamedTiles, first_tile: int = 0) -> EncodedTiles:
        """Begin to encode tiles from `first_tile` on, as far as they are read.

        Raises:
            Overloaded: the queue is full.
            Unavailable: the service is stopping.
        """
        return EncodedTiles(tiles, first_tile, self._config.tiles_ahead, self._queue, self._cache)

    def _run(self) -> None:
        model = self._load_model()
        if model is None:
            return
        while batch := self._queue.take(self._config.batch_tiles):
            started, finished_s = time.monotonic(), self._busy[0]
            self._busy = finished_s, started
            self._encode_batch(model, batch)
            busy_s = time.monotonic() - started
            self._busy = finished_s + busy_s, None
            metrics.ENCODER_BUSY_SECONDS.inc(busy_s)

    def _load_model(self) -> TileModel | None:
        try:
            model = self._load()
        except Exception as error:
            self._loop.call_soon_threadsafe(self._loaded.set_exception, error)
            return None
        self._loop.call_soon_threadsafe(self._loaded.set_result, None)
        return model

    def _encode_batch(self, model: TileModel, batch: Sequence[CachedTile]) -> None:
        try:
            pixels = normalise(np.stack([tile.pixels for tile in batch if tile.pixels is not None]))
            encoded = model.encode(pixels)
            # Each a copy of its own, so that a kept tile does not keep its batch.
            embeddings = [convert(array, tile.dtype) for tile, array in zip(batch, encoded, strict=True)]
        except Exception:
            _log.error("batch failed", tiles=len(batch), exc_info=True)
            self._loop.call_soon_threadsafe(self._fail, batch)
            return
        metrics.BATCH_TILES.observe(len(batch))
        metrics.ENCODED_TILES.inc(len(batch))
        self._loop.call_soon_threadsafe(self._deliver, batch, embeddings)

    def _deliver(self, batch: Sequence[CachedTile], embeddings: Sequence[Embeddings]) -> None:
        for tile, array in zip(batch, embeddings, strict=True):
            self._cache.finish(tile, array)

    def _fail(self, batch: Sequence[CachedTile]) -> None:
        for tile in batch:
            self._cache.fail(tile, InternalError("the encoder failed; its log has the details"))
