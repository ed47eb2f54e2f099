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
from llm_service import metrics
from llm_service.config import Config
from llm_service.engine.engine import Engine
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import SamplingParams
from llm_service.engine.thread import EngineThread, Publish
from llm_service.loading import LoadedModel, open_device, open_model
from llm_service.model.rope import regime_for
from llm_service.requests import RequestReader
from llm_service.responses import model_info
from llm_service.runner import BatchRunner
from llm_service.server import SERVICE_NAME, LlmService
from llm_service.text.answer import AnswerStream, StopRules

_log = get_logger("llm")


class EngineAssembly:
    """Builds the engine of a checkpoint, on the thread that will run it.

    Attributes:
        limits: of the engine; set once it is built.
        cache_dtype: element type of its key-value cache; likewise.
    """

    limits: EngineLimits
    cache_dtype: str

    def __init__(self, config: Config, model: LoadedModel) -> None:
        self._config = config
        self._model = model

    def build(self, publish: Publish) -> Engine:
        """Load the decoder and make the engine around it.

        Raises:
            CheckpointError, ConfigError: as `LoadedModel.load_decoder`, and for limits that cannot be met.
        """
        config, model = self._config, self._model
        device = open_device(config.model, model.config)
        decoder = model.load_decoder(device)
        self.cache_dtype = device.dtype
        self.limits = config.engine.limits(model.config, decoder.cache_bytes_per_token)
        metrics.KV_BUDGET.set(self.limits.kv_budget_tokens)
        runner = BatchRunner(decoder, partial(regime_for, config=model.config))
        return Engine(runner, self.limits, self._new_answer, publish)

    def _new_answer(self, sampling: SamplingParams) -> AnswerStream:
        rules = StopRules(sampling.stop_ids, sampling.stop_texts, sampling.min_tokens)
        return AnswerStream(self._model.tokenizer, rules)


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
        reader = RequestReader(model, assembly.limits)
        info = model_info(model, assembly.limits, assembly.cache_dtype)
        _log.info(
            "model loaded",
            model=model.name,
            context_limit=assembly.limits.context_limit,
            kv_budget_tokens=assembly.limits.kv_budget_tokens,
        )
        yield LlmService(engine, reader, info)


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
