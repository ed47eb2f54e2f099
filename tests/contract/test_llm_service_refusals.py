"""What the language service refuses: the field, the limit, and nobody else is disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from internvl.errors import (
    ContextTooLong,
    FailedPrecondition,
    InvalidField,
)
from internvl.rpc import error_from_rpc
from internvl.v1 import content_pb2, llm_service_pb2
from tests.contract.llm_client import (
    IDLE,
    gauges,
    llm_service,
    message,
    opening,
    room_for,
    tile,
    user,
    visual,
)
from tests.unit.event_loop import bounded
from tests.unit.llm_samples import POSITIONS

ENDLESS = {"max_tokens": 350, "min_tokens": 350}
SYSTEM, ASSISTANT = content_pb2.ROLE_SYSTEM, content_pb2.ROLE_ASSISTANT


def with_fields(n: int = 1, **fields: Any) -> llm_service_pb2.GenerateOpen:
    asked = opening(user("Hello"), n=n)
    asked.MergeFrom(llm_service_pb2.GenerateOpen(**fields))
    return asked


def regex(pattern: str) -> llm_service_pb2.Grammar:
    return llm_service_pb2.Grammar(regex=pattern)


def schema(text: str) -> llm_service_pb2.Grammar:
    return llm_service_pb2.Grammar(json_schema=text)


NAN = float("nan")


def changed(**sampling: Any) -> llm_service_pb2.GenerateOpen:
    return opening(user("Hello"), **sampling)


BAD_OPENINGS: dict[str, tuple[llm_service_pb2.GenerateOpen, str, str]] = {
    "no messages": (opening(), "open.messages", "at least one message"),
    "last not the user's": (
        opening(user("a"), message(ASSISTANT, "b")),
        "open.messages[1].role",
        "the last message must be the user's",
    ),
    "system in the middle": (
        opening(user("a"), message(SYSTEM, "b"), user("c")),
        "open.messages[1].role",
        "must be the first",
    ),
    "no role": (opening(message(content_pb2.ROLE_UNSPECIFIED, "a")), "open.messages[0].role", "must be"),
    "no parts": (opening(user()), "open.messages[0].parts", "at least one part"),
    "empty part": (
        opening(user(llm_service_pb2.PromptPart())),
        "open.messages[0].parts[0]",
        "needs a text or a visual",
    ),
    "picture of the assistant": (
        opening(user("a"), message(ASSISTANT, visual()), user("b")),
        "open.messages[1].parts[0].visual",
        "only allowed in user messages",
    ),
    "no visual id": (opening(user(visual(""))), "open.messages[0].parts[0].visual.visual_id", "1 to 128"),
    "no kind": (opening(user(visual(kind=0))), "open.messages[0].parts[0].visual.kind", "image or video"),
    "no grids": (opening(user(visual(grids=[]))), "open.messages[0].parts[0].visual.grids", "at least one"),
    "empty grid": (
        opening(user(visual(columns=0))),
        "open.messages[0].parts[0].visual.grids[0]",
        "at least one column",
    ),
    "two grids of a picture": (
        opening(user(visual(grids=[content_pb2.TileGrid(columns=1, rows=1)] * 2))),
        "open.messages[0].parts[0].visual.grids",
        "an image has one grid, got 2",
    ),
    "tile count": (
        opening(user(visual(tiles=3))),
        "open.messages[0].parts[0].visual.tiles",
        "the grids hold 2 tiles, got 3",
    ),
    "tokens per tile": (
        opening(user(visual(tokens_per_tile=256))),
        "open.messages[0].parts[0].visual.tokens_per_tile",
        "this model needs 4, got 256",
    ),
    "hidden size": (
        opening(user(visual(hidden_size=3072))),
        "open.messages[0].parts[0].visual.hidden_size",
        "this model needs 32, got 3072",
    ),
    "element type": (
        opening(user(visual(dtype=0))),
        "open.messages[0].parts[0].visual.dtype",
        "float32, bfloat16 or int8",
    ),
    "one id, two layouts": (
        opening(user(visual("a", 2), visual("a", 3))),
        "open.messages[0].parts[1].visual.visual_id",
        "another layout",
    ),
    "temperature": (changed(temperature=2.5), "open.sampling.temperature", "must be 0 to 2, got 2.5"),
    "negative temperature": (changed(temperature=-1), "open.sampling.temperature", "must be 0 to 2"),
    "temperature NaN": (changed(temperature=NAN), "open.sampling.temperature", "got nan"),
    "top_p": (changed(top_p=0), "open.sampling.top_p", "must be above 0 to 1, got 0"),
    "min_p": (changed(min_p=1.5), "open.sampling.min_p", "must be 0 to 1"),
    "repetition": (changed(repetition_penalty=0), "open.sampling.repetition_penalty", "above 0 to 2"),
    "presence": (changed(presence_penalty=-3), "open.sampling.presence_penalty", "must be -2 to 2"),
    "frequency": (changed(frequency_penalty=3), "open.sampling.frequency_penalty", "must be -2 to 2"),
    "max_tokens": (changed(max_tokens=0), "open.sampling.max_tokens", "must be at least 1, got 0"),
    "min_tokens": (changed(min_tokens=7), "open.sampling.min_tokens", "(6), got 7"),
    "many stops": (changed(stop=["x"] * 17), "open.sampling.stop", "at most 16 texts, got 17"),
    "empty stop": (changed(stop=["x", ""]), "open.sampling.stop[1]", "1 to 256 characters, got 0"),
    "long stop": (changed(stop=["x" * 257]), "open.sampling.stop[0]", "1 to 256 characters, got 257"),
    "stop id": (changed(stop_token_ids=[5, 9999]), "open.sampling.stop_token_ids[1]", "got 9999"),
    "all stop ids": (changed(stop_token_ids=range(1220)), "open.sampling.stop_token_ids", "must leave"),
    "no answer": (changed(n=0), "open.sampling.n", "must be 1 to 16, got 0"),
    "many answers": (changed(n=17), "open.sampling.n", "must be 1 to 16, got 17"),
    "many alternatives": (changed(logprobs=21), "open.sampling.logprobs", "must be 0 to 20, got 21"),
    "bias of no token": (changed(logit_bias={9999: 1}), "open.sampling.logit_bias", "got 9999"),
    "bias": (changed(logit_bias={5: 101}), "open.sampling.logit_bias[5]", "must be -100 to 100, got 101"),
    "bias NaN": (changed(logit_bias={5: NAN}), "open.sampling.logit_bias[5]", "got nan"),
    "many biases": (
        changed(logit_bias=dict.fromkeys(range(1025), 0.0)),
        "open.sampling.logit_bias",
        "at most 1024 tokens, got 1025",
    ),
    "no grammar": (
        changed(grammar=llm_service_pb2.Grammar()),
        "open.sampling.grammar",
        "needs a json_schema or a regex",
    ),
    "empty regex": (changed(grammar=regex("")), "open.sampling.grammar.regex", "1 to 4096 bytes, got 0"),
    "long regex": (changed(grammar=regex("a" * 4097)), "open.sampling.grammar.regex", "got 4097"),
    "bad regex": (changed(grammar=regex("(")), "open.sampling.grammar.regex", "malformed"),
    "no JSON": (changed(grammar=schema("{")), "open.sampling.grammar.json_schema", "not valid JSON"),
    "long schema": (
        changed(grammar=schema(" " * 65537)),
        "open.sampling.grammar.json_schema",
        "1 to 65536 bytes, got 65537",
    ),
    "impossible schema": (
        changed(grammar=schema("false")),
        "open.sampling.grammar.json_schema",
        "ever match",
    ),
    "priority": (with_fields(priority=11), "open.priority", "must be -10 to 10, got 11"),
    "delivered to several": (
        with_fields(n=2, delivered_token_ids=[5]),
        "open.delivered_token_ids",
        "one answer can be resumed, not sampling.n = 2",
    ),
    "delivered too many": (
        with_fields(delivered_token_ids=[5] * 7),
        "open.delivered_token_ids",
        "at most max_tokens (6) ids, got 7",
    ),
    "delivered no token": (
        with_fields(delivered_token_ids=[5, 9999]),
        "open.delivered_token_ids[1]",
        "got 9999",
    ),
    "empty salt": (with_fields(cache_salt=""), "open.cache_salt", "1 to 128 characters, got 0"),
    "long salt": (with_fields(cache_salt="x" * 129), "open.cache_salt", "1 to 128 characters, got 129"),
    "request id": (
        llm_service_pb2.GenerateOpen(messages=[user("a")], request_id="a\nb"),
        "open.request_id",
        "must be 1 to 128",
    ),
}


@bounded
async def test_bad_openings_name_the_field(folder: Path) -> None:
    async with llm_service(folder) as service:
        for name, (asked, field, problem) in BAD_OPENINGS.items():
            error = await service.error(asked)
            assert isinstance(error, InvalidField), name
            assert error.field == field, name
            assert problem in error.problem, name
        assert (await service.answer(opening(user("Hello")))).token_ids
    assert gauges() == IDLE


@bounded
async def test_a_prompt_over_the_context_is_refused_with_the_numbers(folder: Path) -> None:
    async with llm_service(folder, context_limit=120) as service:
        error = await service.error(opening(user("shape " * 200)))
        visual_tokens = await service.error(opening(user(visual(columns=2000, rows=1000))))
        characters = await service.error(opening(user("x" * 2_000_000)))
    assert isinstance(error, InvalidField)
    assert (error.reason, error.field) == (ContextTooLong.reason, "open.messages")
    tokens = error.metadata["prompt_tokens"]
    assert int(tokens) > 200
    assert error.metadata["context_limit"] == "120"
    assert f"{tokens} tokens; the limit is 120" in error.message
    assert visual_tokens.reason == characters.reason == ContextTooLong.reason
    assert f"over the model's {POSITIONS} positions" in visual_tokens.message


@bounded
async def test_what_never_fits_the_cache_is_refused_with_the_numbers(folder: Path) -> None:
    async with llm_service(folder, kv_budget=room_for(144)) as service:
        error = await service.error(opening(user("Hello"), max_tokens=100))
        default = await service.answer(llm_service_pb2.GenerateOpen(messages=[user("Hello")]))
    assert isinstance(error, FailedPrecondition)
    assert error.metadata["kv_budget_tokens"] == "144"
    assert int(error.metadata["kv_tokens"]) > 144
    assert default.token_ids  # an unset max_tokens takes what there is


@bounded
async def test_more_answers_than_places_are_refused_with_the_numbers(folder: Path) -> None:
    async with llm_service(folder, max_running=2) as service:
        crowd = await service.error(opening(user("Hello"), n=3))
    assert isinstance(crowd, FailedPrecondition)
    assert crowd.metadata == {"n": "3", "max_running": "2"}


@bounded
async def test_the_stream_opens_once_and_first(folder: Path) -> None:
    async with llm_service(folder) as service:
        twice = service.generate(opening(user("Hello"), **ENDLESS))
        await twice.admitted()
        await twice.write(llm_service_pb2.GenerateRequest(open=opening(user("Again"))))
        with pytest.raises(grpc.aio.AioRpcError) as second:
            await twice.rest()
        for first in ([llm_service_pb2.GenerateRequest(tile=tile("a", 0))], []):
            with pytest.raises(grpc.aio.AioRpcError) as missing:
                await service.stub.Generate(iter(first)).read()
            assert error_from_rpc(missing.value, "").message == "open: must be the first message"
    assert error_from_rpc(second.value, "").message == "open: must be the first message and no other"
