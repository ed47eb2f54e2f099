"""Answers that go on behind the tokens that were delivered before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from internvl.v1 import llm_service_pb2
from llm_service.text.tokenizer import Tokenizer
from tests.contract.llm_client import (
    IDLE,
    Answer,
    gauges,
    llm_service,
    opening,
    tile,
    user,
    visual,
)
from tests.unit.event_loop import bounded
from tests.unit.llm_samples import ROPE_LIMIT

TILES = [tile("a", 0), tile("a", 1)]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"max_tokens": 14},
    "seeded": {"max_tokens": 14, "temperature": 1.5, "seed": 11, "repetition_penalty": 1.2, "top_p": 0.9},
    "held to a form": {
        "max_tokens": 40,
        "temperature": 1.0,
        "seed": 2,
        "grammar": llm_service_pb2.Grammar(regex="[a-d ]{8,10}!"),
    },
}


def resumed(token_ids: list[int], **sampling: Any) -> llm_service_pb2.GenerateOpen:
    asked = opening(user(visual(), "What is this?"), **sampling)
    asked.delivered_token_ids.extend(token_ids)
    return asked


def text_until(answer: Answer, tokens: int) -> str:
    """The text that came with the first tokens."""
    deltas = iter(answer.deltas)
    texts, count = [], 0
    while count < tokens:
        delta = next(deltas)
        texts.append(delta.text)
        count += len(delta.token_ids)
    return "".join(texts)


@pytest.mark.parametrize("way", WAYS)
@bounded
async def test_a_resumed_answer_is_the_undisturbed_one_from_every_cut_on(folder: Path, way: str) -> None:
    sampling = WAYS[way]
    async with llm_service(folder, batch_invariant=True) as service:
        whole = await service.answer(resumed([], **sampling), TILES)
        for cut in range(1, len(whole.token_ids) + 1):
            rest = await service.answer(resumed(whole.token_ids[:cut], **sampling), TILES)
            assert rest.token_ids == whole.token_ids[cut:], cut
            assert text_until(whole, cut) + rest.text == whole.text, cut
            assert rest.result.finish_reason == whole.result.finish_reason
            assert rest.result.usage.completion_tokens == len(whole.token_ids)
        assert gauges() == IDLE


@bounded
async def test_an_answer_that_was_delivered_whole_ends_at_once(folder: Path) -> None:
    stop = Tokenizer.load(folder).eos_id
    async with llm_service(folder) as service:
        full = service.generate(resumed([5] * 6))
        await full.admitted()
        by_length = await full.rest()  # without a single tile
        ended = service.generate(resumed([5, stop]))
        await ended.admitted()
        by_stop = await ended.rest()
        assert gauges() == IDLE
    assert (by_length.deltas, by_stop.deltas) == ([], [])
    assert by_length.result.finish_reason == llm_service_pb2.FINISH_REASON_LENGTH
    assert by_length.result.usage.completion_tokens == 6
    assert by_stop.result.finish_reason == llm_service_pb2.FINISH_REASON_STOP
    assert by_stop.result.choices[0].completion_tokens == 2


@bounded
async def test_resuming_crosses_the_rope_limit(folder: Path) -> None:
    async with llm_service(folder, batch_invariant=True) as service:
        asked = opening(user("Hi"), max_tokens=100, min_tokens=100)
        stream = service.generate(asked)
        prompt = (await stream.admitted()).prompt_tokens
        whole = await stream.rest()
        crossing = ROPE_LIMIT - prompt
        for cut in (crossing - 1, crossing, crossing + 1, crossing + 20):
            asked.delivered_token_ids[:] = whole.token_ids[:cut]
            assert (await service.answer(asked)).token_ids == whole.token_ids[cut:], cut
