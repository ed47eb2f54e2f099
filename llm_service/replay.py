"""Runs the request of a replay bundle again, without a service, and compares the tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

import numpy as np

from internvl.errors import ConfigError, InvalidField, ServingError
from internvl.model_choice import ModelChoice, weight_flags
from internvl.model_config import InternVLConfig
from internvl.rpc import ServerConfig
from internvl.v1 import content_pb2, replay_pb2
from llm_service.assembly import EngineAssembly
from llm_service.config import KV_DTYPES, Config, EngineConfig
from llm_service.engine.events import Delta, Event, Failed
from llm_service.engine.request import Embeddings, Request, SamplingParams, TileKey, VisualSlot
from llm_service.engine.sequence import Sequence
from llm_service.grammar_fields import read_grammar
from llm_service.guided import GrammarCompiler
from llm_service.loading import LoadedModel, open_model
from llm_service.sampling_fields import Room, read_delivered, read_sampling
from llm_service.text.tokenizer import Tokenizer
from llm_service.tiles import TileIntake


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer of the bundle and the one that came now, as token ids."""

    expected: tuple[int, ...]
    found: tuple[int, ...]

    @property
    def first_difference(self) -> int | None:
        """Number of the first token that differs or is missing on one side, from 0; None if all agree."""
        if self.expected == self.found:
            return None
        pairs = zip(self.expected, self.found, strict=False)
        shorter = min(len(self.expected), len(self.found))
        return next((place for place, (old, new) in enumerate(pairs) if old != new), shorter)


class Replay:
    """A bundle and the model that it was made with."""

    def __init__(self, bundle: replay_pb2.ReplayBundle, choice: ModelChoice) -> None:
        """Check that this model can run it.

        Raises:
            CheckpointError: weights that cannot be used.
            ConfigError: other weights than the bundle's, a model that cannot be used, or a bundle that holds
                what no request can.
        """
        self._bundle = bundle
        self._choice = choice
        self._model = open_model(choice)
        _check_weights(bundle, self._model, choice)
        self._request = _read_request(bundle, self._model)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    @property
    def request(self) -> Request:
        """What is run again."""
        return self._request

    def run(self, tiles: Mapping[str, Many[content_pb2.Tile]]) -> tuple[Comparison, ...]:
        """Load the model and answer again.

        Args:
            tiles: all tiles of every item, in order, by `visual_id`.

        Raises:
            ConfigError: the engine cannot be set as the bundle says, a tile is not the one needed, or the
                request failed.
        """
        answers: list[list[int]] = [[] for _ in self._bundle.choices]
        failures: list[ServingError] = []

        def publish(request: Request, event: Event) -> None:
            match event:
                case Delta():
                    answers[event.choice].extend(event.token_ids)
                case Failed(error):
                    failures.append(error)

        received = list(self._received(tiles))
        engine = EngineAssembly(self._config(), self._model).build(publish)
        engine.submit(self._request)
        for key, embeddings in received:
            engine.receive_tile(self._request, key, embeddings)
        while engine.has_work:
            engine.step()
        if failures:
            raise ConfigError(f"replay: {failures[0]}")
        pairs = zip(self._bundle.choices, answers, strict=True)
        return tuple(Comparison(tuple(choice.token_ids), tuple(found)) for choice, found in pairs)

    def _config(self) -> Config:
        model = self._bundle.model
        engine = EngineConfig(
            context_limit=model.context_limit,
            kv_dtype=KV_DTYPES[model.kv_dtype],
            kv_block_size=model.kv_block_size,
            max_running=model.max_running,
            step_token_budget=self._bundle.step_token_budget,
            speculate=model.speculation,
            batch_invariant=model.batch_invariant,
        )
        return Config(self._choice, ServerConfig(listen=""), engine)

    def _received(self, tiles: Mapping[str, Many[content_pb2.Tile]]) -> Iterator[tuple[TileKey, Embeddings]]:
        """The tiles, checked as the service checks them."""
        model, needed = self._model.config, Sequence(self._request).needs()
        dtypes = {layout.visual_id: layout.dtype for layout in self._bundle.visuals}
        intake = TileIntake(needed, (model.tokens_per_tile, model.llm.hidden_size), dtypes)
        try:
            for need in needed:
                for tile in tiles[need.visual_id]:
                    yield intake.take(tile)
            intake.check_complete()
        except InvalidField as error:
            raise ConfigError(f"replay: {error}") from error


def _check_weights(bundle: replay_pb2.ReplayBundle, model: LoadedModel, choice: ModelChoice) -> None:
    made_with, here = bundle.model.weights_fingerprint, model.fingerprint
    if made_with != here:
        kept_then, kept_here = bundle.machine.weights or "fp32", choice.weights or "fp32"
        if kept_then != kept_here:
            flags = " ".join(weight_flags(kept_then))
            raise ConfigError(
                f"the bundle was made with weights kept as {kept_then}, here they are kept as {kept_here}: "
                f"give {flags}, or neither --dtype nor --quantize"
            )
        raise ConfigError(
            f"the bundle was made with other weights: {bundle.model.model_name} ({made_with[:16]}), "
            f"here is {model.name} ({here[:16]})"
        )


def _read_request(bundle: replay_pb2.ReplayBundle, model: LoadedModel) -> Request:
    """The request, checked: a file may hold anything.

    Raises:
        ConfigError: names what cannot be.
    """
    try:
        sampling = _read_sampling(bundle, model)
        delivered = read_delivered(bundle.delivered_token_ids, sampling, model.config.llm.vocab_size)
        _check_bundle(bundle, sampling, model.config)
        slots = tuple(_read_slots(bundle, model.config.tokens_per_tile))
    except InvalidField as error:
        raise ConfigError(f"replay bundle: {error}") from error
    return Request(
        request_id=bundle.request_id,
        prompt_ids=np.array(bundle.prompt_ids, np.int64),
        sampling=sampling,
        slots=slots,
        opened=time.monotonic(),
        delivered_ids=delivered,
    )


def _read_sampling(bundle: replay_pb2.ReplayBundle, model: LoadedModel) -> SamplingParams:
    left = bundle.model.context_limit - len(bundle.prompt_ids)
    sampling = read_sampling(bundle.sampling, model.config.llm.vocab_size, model.stop_ids, Room(left, left))
    if not bundle.sampling.HasField("grammar"):
        return sampling
    grammars = GrammarCompiler(model.tokenizer)
    return replace(sampling, grammar=read_grammar(bundle.sampling.grammar, grammars))


def _check_bundle(bundle: replay_pb2.ReplayBundle, sampling: SamplingParams, config: InternVLConfig) -> None:
    if not 1 <= len(bundle.prompt_ids) < bundle.model.context_limit:
        raise InvalidField("prompt_ids", f"must be 1 to {bundle.model.context_limit - 1} ids")
    if any(token_id >= config.llm.vocab_size for token_id in bundle.prompt_ids):
        raise InvalidField("prompt_ids", f"must be below {config.llm.vocab_size}")
    if len(bundle.choices) != sampling.n:
        raise InvalidField(
            "choices", f"must be {sampling.n}, as many as sampling.n, got {len(bundle.choices)}"
        )
    if bundle.model.kv_dtype not in KV_DTYPES:
        raise InvalidField("model.kv_dtype", f"must be one of {', '.join(KV_DTYPES)}")
    positions = config.llm.max_position_embeddings
    if not 1 <= bundle.model.kv_block_size <= positions:  # a larger block could take all memory there is
        raise InvalidField("model.kv_block_size", f"must be 1 to {positions}")


def _read_slots(bundle: replay_pb2.ReplayBundle, tokens_per_tile: int) -> Iterator[VisualSlot]:
    tiles = {layout.visual_id: layout.tiles for layout in bundle.visuals}
    end = 0
    for number, slot in enumerate(bundle.slots):
        field = f"slots[{number}]"
        if slot.offset < end or slot.tile >= tiles.get(slot.visual_id, 0):
            raise InvalidField(field, "overlaps another or names no tile")
        if slot.length != tokens_per_tile:
            raise InvalidField(field, f"must have {tokens_per_tile} tokens, got {slot.length}")
        end = slot.offset + slot.length
        if end > len(bundle.prompt_ids):
            raise InvalidField(field, "reaches beyond the prompt")
        yield VisualSlot(slot.offset, slot.length, TileKey(slot.visual_id, slot.tile))
