"""How tokens are chosen, as a caller of the language service sees it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path

import pytest

from internvl.v1 import llm_service_pb2
from llm_service.text.tokenizer import Tokenizer
from tests.contract.llm_client import IDLE, gauges, llm_service, opening, user
from tests.unit.event_loop import bounded


@bounded
async def test_greedy_by_default_and_sampling_by_seed(folder: Path) -> None:
    free = {"temperature": 2.0, "max_tokens": 20, "min_tokens": 20}
    async with llm_service(folder) as service:
        greedy = [await service.answer(opening(user("Hello"))) for _ in range(2)]
        seeded = [await service.answer(opening(user("Hello"), seed=7, **free)) for _ in range(2)]
        drawn = await asyncio.gather(*(service.answer(opening(user("Hello"), **free)) for _ in range(4)))
    assert greedy[0].token_ids == greedy[1].token_ids
    assert seeded[0].token_ids == seeded[1].token_ids
    assert len({tuple(answer.token_ids) for answer in drawn}) == 4  # the server draws seeds


@bounded
async def test_stop_text_and_stop_id(folder: Path) -> None:
    async with llm_service(folder) as service:
        plain = await service.answer(opening(user("Hello"), max_tokens=20))
        third = plain.token_ids[2]
        by_id = await service.answer(opening(user("Hello"), max_tokens=20, stop_token_ids=[third]))
        word = plain.text[2:5]
        by_text = await service.answer(opening(user("Hello"), max_tokens=20, stop=["nowhere", word]))
        late = await service.answer(opening(user("Hello"), max_tokens=20, min_tokens=20, stop=[word]))
    assert by_id.result.finish_reason == llm_service_pb2.FINISH_REASON_STOP
    assert by_id.token_ids == plain.token_ids[: plain.token_ids.index(third) + 1]
    assert not by_id.result.HasField("stop_match")
    assert by_text.result.finish_reason == llm_service_pb2.FINISH_REASON_STOP
    assert by_text.result.stop_match == word
    assert by_text.text == plain.text[: plain.text.index(word)].strip()
    assert late.result.usage.completion_tokens == 20


@bounded
async def test_max_tokens_is_cut_to_the_context(folder: Path) -> None:
    async with llm_service(folder, context_limit=110) as service:
        stream = service.generate(opening(user("Hello"), max_tokens=16384, min_tokens=10))
        prompt = (await stream.admitted()).prompt_tokens
        answer = await stream.rest()
        unset = service.generate(llm_service_pb2.GenerateOpen(messages=[user("Hello")]))
        await unset.admitted()
        await unset.rest()
    assert prompt + answer.result.usage.completion_tokens <= 110
    assert answer.result.usage.completion_tokens >= 10


@bounded
async def test_several_answers_begin_with_the_one_that_is_given_alone(folder: Path) -> None:
    drawn = {"seed": 5, "temperature": 2.0, "max_tokens": 12, "min_tokens": 12}
    async with llm_service(folder) as service:
        alone = await service.answer(opening(user("Hello"), **drawn))
        answer = await service.answer(opening(user("Hello"), n=4, **drawn))
        greedy = await service.answer(opening(user("Hello"), n=3))
        assert gauges() == IDLE
    assert answer.tokens_of(0) == alone.token_ids
    assert len({tuple(answer.tokens_of(choice)) for choice in range(4)}) == 4
    assert len({tuple(greedy.tokens_of(choice)) for choice in range(3)}) == 1
    result = answer.result
    assert [end.completion_tokens for end in result.choices] == [12] * 4
    assert result.usage.completion_tokens == 48
    assert result.usage.prompt_tokens == alone.result.usage.prompt_tokens
    assert result.finish_reason == result.choices[0].finish_reason == llm_service_pb2.FINISH_REASON_LENGTH


@bounded
async def test_each_of_several_answers_ends_in_its_own_way(folder: Path) -> None:
    drawn = {"seed": 5, "temperature": 2.0, "max_tokens": 12, "n": 4}
    async with llm_service(folder) as service:
        free = await service.answer(opening(user("Hello"), min_tokens=12, **drawn))
        stop = free.tokens_of(2)[3]
        answer = await service.answer(opening(user("Hello"), stop_token_ids=[stop], **drawn))
    ends = answer.result.choices
    assert ends[2].finish_reason == llm_service_pb2.FINISH_REASON_STOP
    assert ends[2].completion_tokens == len(answer.tokens_of(2)) <= 4
    assert [end.completion_tokens for end in ends] == [len(answer.tokens_of(n)) for n in range(4)]
    assert (answer.result.finish_reason, answer.result.usage.completion_tokens) == (
        ends[0].finish_reason,
        sum(end.completion_tokens for end in ends),
    )


@bounded
async def test_a_bias_brings_a_token_or_bans_it(folder: Path) -> None:
    async with llm_service(folder) as service:
        plain = await service.answer(opening(user("Hello")))
        brought = await service.answer(opening(user("Hello"), logit_bias={300: 100.0}))
        banned = await service.answer(opening(user("Hello"), logit_bias={plain.token_ids[0]: -100.0}))
    assert brought.token_ids == [300] * 6
    assert plain.token_ids[0] not in banned.token_ids


@bounded
async def test_log_probabilities_are_those_of_the_model(folder: Path) -> None:
    pieces = Tokenizer.load(folder).pieces
    async with llm_service(folder) as service:
        answer = await service.answer(opening(user("Hello"), logprobs=20, max_tokens=20))
        few = await service.answer(opening(user("Hello"), logprobs=0))
        none = await service.answer(opening(user("Hello")))
        hot = await service.answer(opening(user("Hello"), logprobs=1, temperature=2.0, seed=1))
    assert [logprob.token_id for logprob in answer.logprobs] == answer.token_ids
    for logprob in answer.logprobs:
        values = [other.logprob for other in logprob.top]
        assert values == sorted(values, reverse=True)
        assert len(values) == len({other.token_id for other in logprob.top}) == 20
        assert sum(map(math.exp, values)) <= 1
        assert (logprob.top[0].token_id, logprob.top[0].logprob) == (logprob.token_id, logprob.logprob)
        assert logprob.token == pieces[logprob.token_id].own_bytes
    assert [len(logprob.top) for logprob in few.logprobs] == [0] * 6
    assert none.logprobs == []
    assert all(logprob.logprob <= logprob.top[0].logprob <= 0 for logprob in hot.logprobs)
    # Temperature draws another token, but the distribution told is the model's own.
    assert hot.logprobs[0].top[0].logprob == pytest.approx(few.logprobs[0].logprob, abs=1e-4)


@bounded
async def test_an_answer_keeps_to_its_form(folder: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer", "maximum": 99}, "big": {"type": "boolean"}},
        "required": ["count", "big"],
        "additionalProperties": False,
    }
    async with llm_service(folder) as service:
        number = await service.answer(
            opening(user("Hello"), max_tokens=40, grammar=llm_service_pb2.Grammar(regex="[0-9]{3}-[ab]+c"))
        )
        form = llm_service_pb2.Grammar(json_schema=json.dumps(schema))
        several = await service.answer(
            opening(user("Hello"), max_tokens=200, grammar=form, temperature=1.0, seed=3, n=3)
        )
    if number.result.finish_reason == llm_service_pb2.FINISH_REASON_STOP:
        assert re.fullmatch("[0-9]{3}-[ab]+c", number.text)
    else:
        assert re.fullmatch("[0-9]{3}-[ab]+", number.text)
    for choice, end in enumerate(several.result.choices):
        text = "".join(delta.text for delta in several.deltas if delta.choice == choice)
        assert end.finish_reason == llm_service_pb2.FINISH_REASON_STOP
        assert set(json.loads(text)) == {"count", "big"}
