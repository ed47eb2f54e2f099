"""The engine on the real decoder with random weights, against plain loops over the same decoder."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from internvl.model_choice import ModelChoice
from internvl.model_config import InternVLConfig
from llm_service.engine.engine import Engine
from llm_service.engine.events import Delta, Event, Failed
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot
from llm_service.engine.sampler import TokenSampler
from llm_service.loading import LoadedModel, open_device, open_model
from llm_service.model.batch import VisualSpan
from llm_service.model.rope import regime_for
from llm_service.model.runner import ModelRunner
from llm_service.runner import BatchRunner
from tests.unit.engine_samples import SpelledAnswer
from tests.unit.llm_samples import HIDDEN, ROPE_LIMIT, TOKENS_PER_TILE, write_tiny_model
from tests.unit.paged_samples import Pages


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, ModelRunner]:
    config = ModelChoice(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))
    loaded = open_model(config)
    return loaded, loaded.load_decoder(open_device(config, loaded.config))


def tile(visual_id: str, number: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng([ord(visual_id), number])
    return generator.standard_normal((TOKENS_PER_TILE, HIDDEN), np.float32)


def request(length: int, items: str = "", seed: int = 0, **sampling: Any) -> Request:
    """Random text with single-tile items spread through it."""
    ids = np.random.default_rng(seed).integers(3, 900, length)
    gap = length // (len(items) + 1)
    slots = [
        VisualSlot((number + 1) * gap, TOKENS_PER_TILE, TileKey(item, number))
        for number, item in enumerate(items)
    ]
    params = SamplingParams(**{"max_tokens": 8, **sampling})
    return Request("r", ids, params, tuple(slots))


def run(model: ModelRunner, requests: list[Request], **limits: Any) -> list[list[int]]:
    """All requests at once through an engine with a fresh cache."""
    tokens: dict[Request, list[int]] = {asked: [] for asked in requests}

    def publish(asked: Request, event: Event) -> None:
        assert not isinstance(event, Failed)
        if isinstance(event, Delta):
            tokens[asked] += event.token_ids

    small = {"context_limit": 400, "kv_blocks": 250, "max_running": 8, "step_token_budget": 64}
    bounds = EngineLimits(**small | limits)
    model.open_cache(bounds.kv_blocks, bounds.kv_block_size)
    regime_of = partial(regime_for, config=model.config)
    engine = Engine(BatchRunner(model), bounds, regime_of, SpelledAnswer, publish)
    for asked in requests:
        engine.submit(asked)
    for asked in requests:
        for slot in asked.slots:
            engine.receive_tile(asked, slot.tile, tile(*slot.tile))
    while engine.has_work:
        engine.step()
    return list(tokens.values())


def ids_and_spans(asked: Request, answer: list[int]) -> tuple[np.ndarray[Any, Any], list[VisualSpan]]:
    ids = np.concatenate([asked.prompt_ids, np.array(answer, np.int64)])
    return ids, [VisualSpan(slot.offset, tile(*slot.tile)) for slot in asked.slots]


def recomputed(model: ModelRunner, config: InternVLConfig, asked: Request) -> list[int]:
    """Every token from an empty cache: no chunks, no batch, no reuse."""
    answer: list[int] = []
    sampler = TokenSampler(asked, 0)
    while len(answer) < asked.sampling.max_tokens:
        ids, spans = ids_and_spans(asked, answer)
        sequence = Pages(model).sequence(len(ids), regime_for(len(ids), config))
        answer.append(sampler.sample(sequence.last(ids, *spans))[0].token_id)
    return answer


def cached(model: ModelRunner, asked: Request) -> list[int]:
    """Prefill once, then one token at a time."""
    answer: list[int] = []
    sampler = TokenSampler(asked, 0)
    sequence = Pages(model).sequence(asked.kv_tokens)
    ids, spans = ids_and_spans(asked, [])
    logits = sequence.last(ids, *spans)
    while True:
        answer.append(sampler.sample(logits)[0].token_id)
        if len(answer) == asked.sampling.max_tokens:
            return answer
        logits = sequence.last(np.array(answer[-1:], np.int64))


SAMPLED = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.1}


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("items", ["", "a", "aba"])
def test_equals_plain_loops(
    model: tuple[LoadedModel, ModelRunner], items: str, sampling: dict[str, float]
) -> None:
    loaded, decoder = model
    asked = request(70, items, **sampling)
    expected = recomputed(decoder, loaded.config, asked)
    assert cached(decoder, asked) == expected
    assert run(decoder, [asked]) == [expected]
    assert run(decoder, [asked], step_token_budget=17) == [expected]
    assert len(set(expected)) > 3  # an answer that could go wrong


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_company_changes_no_answer(
    model: tuple[LoadedModel, ModelRunner], sampling: dict[str, float]
) -> None:
    _, decoder = model
    asked = [request(20 + 9 * seed, "ab"[: seed % 3], seed, max_tokens=6, **sampling) for seed in range(6)]
    alone = [run(decoder, [one])[0] for one in asked]
    assert run(decoder, asked, max_running=6) == alone
    assert run(decoder, asked, max_running=3, step_token_budget=11) == alone
    assert run(decoder, asked, kv_blocks=12, draft_tokens=4) == alone  # guesses, and too little room


@pytest.mark.parametrize("prompt", [ROPE_LIMIT - 3, ROPE_LIMIT - 1, ROPE_LIMIT, ROPE_LIMIT + 1])
def test_crossing_the_rope_limit_equals_starting_anew(
    model: tuple[LoadedModel, ModelRunner], prompt: int
) -> None:
    loaded, decoder = model
    asked = request(prompt, "ab", max_tokens=6)
    expected = recomputed(decoder, loaded.config, asked)
    assert run(decoder, [asked]) == [expected]
    assert run(decoder, [asked, request(30, "a", max_tokens=12)], step_token_budget=40)[0] == expected
