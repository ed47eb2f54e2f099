"""The compute thread: the only one that touches the model, and so the only one that touches Paddle."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError, ServingError, Unavailable
from internvl.telemetry import get_logger
from vision_service import metrics
from vision_service.batcher import QueuedTile, TileJob, TileQueue
from vision_service.preprocessing import normalise

_log = get_logger("encoder")


class TileModel(Protocol):
    """What the thread runs."""

    def encode(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, 3, S, S], normalised, to [n, tokens_per_tile, hidden_size]."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Settings of the compute thread.

    Attributes:
        batch_tiles: most tiles of one batch. More of them fill an accelerator better; fewer let the first
            tile of a picture leave sooner.
        max_queued_tiles: most decoded tiles waiting in memory.
    """

    batch_tiles: int = 4
    max_queued_tiles: int = 1024


@dataclass(frozen=True, slots=True)
class EncodedTile:
    """Embeddings of one tile: [tokens_per_tile, hidden_size] float32."""

    index: int
    embeddings: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """One caller of `encode`: its tiles, and the mailbox its results go to."""

    tiles: NDArray[np.uint8]
    loop: asyncio.AbstractEventLoop
    results: asyncio.Queue[EncodedTile | ServingError] = field(default_factory=asyncio.Queue)

    def post(self, result: EncodedTile | ServingError) -> None:
        """Deliver from any thread."""
        self.loop.call_soon_threadsafe(self.results.put_nowait, result)


class Encoder:
    """Encodes tiles on one dedicated thread, batched over requests without a timer."""

    def __init__(self, load: Callable[[], TileModel], config: EncoderConfig) -> None:
        """
        Args:
            load: builds the model; called on the compute thread, because Paddle's device is the thread's.
            config: batch size and bounds.
        """
        self._load = load
        self._config = config
        self._queue: TileQueue[_Request] = TileQueue(config.max_queued_tiles)
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._loaded: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Load the model and begin to compute.

        Raises:
            Whatever loading raises, for example CheckpointError or ConfigError.
        """
        self._loaded = asyncio.get_running_loop().create_future()
        metrics.QUEUED_TILES.set_function(lambda: self._queue.depth)
        self._thread.start()
        await self._loaded

    async def stop(self) -> None:
        """Finish the running batch and end the thread; whoever still waits gets Unavailable."""
        for request in self._queue.close():
            request.post(Unavailable("the vision service is stopping"))
        await asyncio.to_thread(self._thread.join)

    async def encode(
        self, tiles: NDArray[np.uint8], first_tile: int = 0
    ) -> AsyncGenerator[EncodedTile, None]:
        """Encode tiles in order; each is yielded as soon as its batch is done. Closing the iterator cancels.

        Args:
            tiles: [n, S, S, 3], as `cut_tiles` makes them.
            first_tile: number of the first one wanted.

        Raises:
            Overloaded: the queue is full.
            InternalError: the model failed on this batch.
            Unavailable: the service is stopping.
        """
        request = _Request(tiles, asyncio.get_running_loop())
        job = TileJob(request, first_tile, len(tiles))
        self._queue.put(job)
        try:
            for _ in range(first_tile, len(tiles)):
                result = await request.results.get()
                if isinstance(result, ServingError):
                    raise result
                yield result
        finally:
            self._queue.cancel(job)

    def _run(self) -> None:
        model = self._load_model()
        if model is None:
            return
        while batch := self._queue.take(self._config.batch_tiles):
            self._encode_batch(model, batch)

    def _load_model(self) -> TileModel | None:
        loaded = self._loaded
        if loaded is None:
            return None
        loop = loaded.get_loop()
        try:
            model = self._load()
        except Exception as error:
            loop.call_soon_threadsafe(loaded.set_exception, error)
            return None
        loop.call_soon_threadsafe(loaded.set_result, None)
        return model

    def _encode_batch(self, model: TileModel, batch: list[QueuedTile[_Request]]) -> None:
        started = time.monotonic()
        try:
            pixels = normalise(np.stack([tile.ticket.tiles[tile.index] for tile in batch]))
            embeddings = model.encode(pixels)
        except Exception:
            _log.error("batch failed", tiles=len(batch), exc_info=True)
            for request in {id(tile.ticket): tile.ticket for tile in batch}.values():
                request.post(InternalError("the encoder failed; its log has the details"))
            return
        for tile, embedding in zip(batch, embeddings, strict=True):
            tile.ticket.post(EncodedTile(tile.index, embedding))
        metrics.BATCH_TILES.observe(len(batch))
        metrics.ENCODED_TILES.inc(len(batch))
        metrics.ENCODER_BUSY_SECONDS.inc(time.monotonic() - started)
