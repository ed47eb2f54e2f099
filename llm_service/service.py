"""The whole service put together: checkpoint, engine thread and server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc

from internvl.errors import InternalError
from internvl.rpc import run_server
from internvl.telemetry import get_logger
from internvl.v1 import llm_service_pb2_grpc
from llm_service.assembly import EngineAssembly
from llm_service.config import Config
from llm_service.engine.thread import EngineThread
from llm_service.loading import open_model
from llm_service.requests import RequestReader
from llm_service.responses import ResponseWriter
from llm_service.server import SERVICE_NAME, LlmService

_log = get_logger("llm")


@asynccontextmanager
async def open_service(config: Config, on_crash: Callable[[], None]) -> AsyncIterator[LlmService]:
    """Load the model and start the engine; on leaving, stop it.

    Args:
        on_crash: is called if the engine ends by itself.

    Raises:
        CheckpointError: weights that cannot be used.
        ConfigError: a model, tokenizer, device or limit that cannot be used.
    """
    model = await asyncio.to_thread(open_model, config.model)
    assembly = EngineAssembly(config, model)
    thread = EngineThread(assembly.build, config.engine.stream_limit, on_crash)
    async with thread.running() as engine:
        facts = assembly.facts()
        reader = RequestReader(model, assembly.limits, facts)
        _log.info(
            "model loaded",
            model=model.name,
            context_limit=assembly.limits.context_limit,
            kv_blocks=assembly.limits.kv_blocks,
            kv_block_size=assembly.limits.kv_block_size,
            kv_dtype=facts.model.kv_dtype,
        )
        writer = ResponseWriter(
            model.tokenizer.pieces, model.fingerprint, assembly.limits, assembly.block_bytes
        )
        yield LlmService(engine, reader, writer, facts.model)


def registration(service: LlmService) -> Callable[[grpc.aio.Server], None]:
    """What adds the service to a server."""
    return partial(llm_service_pb2_grpc.add_LlmServiceServicer_to_server, service)


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        CheckpointError, ConfigError: as `open_service`.
        InternalError: the engine crashed, and the service was drained so that a new one can take its place.
    """
    crashed = asyncio.Event()

    def on_crash() -> None:
        crashed.set()
        signal.raise_signal(signal.SIGTERM)

    async with open_service(config, on_crash) as service:
        await run_server(config.server, registration(service), [SERVICE_NAME])
    if crashed.is_set():
        raise InternalError("the engine crashed; the log has the details")
