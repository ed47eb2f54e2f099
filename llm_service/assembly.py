"""The engine of a checkpoint put together: decoder, cache, limits and text."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

from kernels.memory import device_memory
from kernels.paged import KvDtype
from llm_service import metrics
from llm_service.config import Config
from llm_service.engine.engine import Engine
from llm_service.engine.limits import EngineLimits
from llm_service.engine.ports import Runner
from llm_service.engine.request import SamplingParams
from llm_service.engine.thread import Publish
from llm_service.loading import LoadedModel, open_device
from llm_service.model.rope import regime_for
from llm_service.replay_bundle import EngineFacts, this_machine
from llm_service.responses import model_info
from llm_service.runner import BatchRunner, Model
from llm_service.text.answer import AnswerStream, StopRules


class EngineAssembly:
    """Builds the engine of a checkpoint, on the thread that will run it.

    Attributes:
        limits: of the engine; set once it is built.
        kv_dtype: how it keeps keys and values; likewise.
        block_bytes: memory of one block of its cache; likewise.
    """

    limits: EngineLimits
    kv_dtype: KvDtype
    block_bytes: int

    def __init__(self, config: Config, model: LoadedModel) -> None:
        self._config = config
        self._model = model

    def build(self, publish: Publish, make_runner: Callable[[Model], Runner] = BatchRunner) -> Engine:
        """Load the decoder, open its cache and make the engine around it.

        Args:
            make_runner: makes what the engine runs its steps with, for whoever wants to watch them.

        Raises:
            CheckpointError, ConfigError: as `LoadedModel.load_decoder`, and for limits that cannot be met.
        """
        model, engine = self._model, self._config.engine
        device = open_device(self._config.model, model.config)
        decoder = model.load_decoder(device, engine.batch_invariant)
        self.kv_dtype = engine.kv_dtype_on(device)
        self.block_bytes = decoder.block_bytes(engine.kv_block_size, self.kv_dtype)
        self.limits = engine.limits(model.config, self.block_bytes, device_memory(device))
        decoder.open_cache(self.limits.kv_blocks, self.limits.kv_block_size, self.kv_dtype)
        metrics.KV_BUDGET.set(self.limits.kv_budget_tokens)
        regime_of = partial(regime_for, config=model.config)
        gc.collect()
        gc.freeze()  # or every full collection goes through all that loading has made
        return Engine(make_runner(decoder), self.limits, regime_of, self._new_answer, publish)

    def facts(self) -> EngineFacts:
        """What tokens depend on, beside the request; known once the engine is built."""
        engine = self._config.engine
        return EngineFacts(
            model=model_info(self._model, self.limits, engine, self.kv_dtype),
            step_token_budget=engine.step_token_budget,
            machine=this_machine(self._config.model),
        )

    def _new_answer(self, sampling: SamplingParams) -> AnswerStream:
        rules = StopRules(
            sampling.stop_ids,
            sampling.stop_texts,
            sampling.min_tokens,
            verbatim=sampling.grammar is not None,
        )
        return AnswerStream(self._model.tokenizer, rules)
