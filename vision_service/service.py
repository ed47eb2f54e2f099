"""The vision service put together: model, compute thread, decoders, server."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from internvl.rpc import run_server
from internvl.telemetry import get_logger
from internvl.v1 import vision_service_pb2_grpc
from vision_service.config import Config
from vision_service.decoding import MediaDecoder
from vision_service.embedding_cache import EmbeddingCache
from vision_service.encoder import Encoder
from vision_service.items import Items
from vision_service.loading import LoadedModel, open_model
from vision_service.server import SERVICE_NAME, VisionService

_log = get_logger("vision")


async def serve(config: Config) -> None:
    """Load the model, serve until told to stop, then finish the running calls.

    Raises:
        CheckpointError: the model's files are not sound.
        ConfigError: a setting that cannot be used.
    """
    model = open_model(config.model)
    async with working_service(model, config) as service:
        gc.freeze()  # what is loaded stays, and need not be searched again while calls wait
        _log.info("loaded", model=model.name, device=config.model.device, tile_size=model.tiling.tile_size)
        await run_server(
            config.server,
            lambda server: vision_service_pb2_grpc.add_VisionServiceServicer_to_server(service, server),
            [SERVICE_NAME],
        )


@asynccontextmanager
async def working_service(model: LoadedModel, config: Config) -> AsyncIterator[VisionService]:
    """The service with its compute thread and decoders running; they end with the block."""
    cache = EmbeddingCache(config.embedding_cache_bytes)
    encoder = Encoder(
        lambda: model.load_encoder(config.model.device, config.model.threads), config.encoder, cache
    )
    decoder = MediaDecoder(config.decode, config.media, encoder.busy_seconds)
    await decoder.start()
    try:
        await encoder.start()
        try:
            yield VisionService(model, Items(model.identity, encoder, decoder, cache), decoder, config)
        finally:
            await encoder.stop()
    finally:
        await decoder.stop()
