"""Whatever a client sends becomes a sound request or an error that names a field."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import ContextTooLong, InvalidField
from internvl.model_choice import ModelChoice
from internvl.v1 import content_pb2, llm_service_pb2, replay_pb2, tensor_pb2
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request
from llm_service.engine.sequence import Sequence
from llm_service.loading import open_model
from llm_service.replay_bundle import EngineFacts
from llm_service.requests import RequestReader
from tests.unit.llm_samples import HIDDEN, TOKENS_PER_TILE, write_tiny_model

LIMITS = EngineLimits(context_limit=400, kv_blocks=600)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> RequestReader:
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    info = llm_service_pb2.ModelInfoResponse(prefix_cache=True)
    facts = EngineFacts(info, LIMITS.step_token_budget, replay_pb2.ReplayMachine())
    return RequestReader(open_model(ModelChoice(folder)), LIMITS, facts)


def maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


grids = st.builds(content_pb2.TileGrid, columns=st.integers(1, 2), rows=st.just(1), thumbnail=st.booleans())


@st.composite
def layouts(draw: st.DrawFn) -> content_pb2.VisualLayout:
    film = draw(st.booleans())
    chosen = draw(st.lists(grids, min_size=1, max_size=2 if film else 1))
    tiles = sum(grid.columns + grid.thumbnail for grid in chosen)
    return content_pb2.VisualLayout(
        visual_id=f"{film} {chosen}",
        kind=content_pb2.MEDIA_KIND_VIDEO if film else content_pb2.MEDIA_KIND_IMAGE,
        grids=chosen,
        tiles=tiles,
        tokens_per_tile=TOKENS_PER_TILE,
        hidden_size=HIDDEN,
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
    )


texts = st.builds(llm_service_pb2.PromptPart, text=st.text(min_size=1, max_size=20))
parts = texts | st.builds(llm_service_pb2.PromptPart, visual=layouts())
turns = st.builds(
    llm_service_pb2.PromptMessage,
    role=st.just(content_pb2.ROLE_USER),
    parts=st.lists(parts, min_size=1, max_size=3),
)
sampling = st.builds(
    llm_service_pb2.SamplingParams,
    temperature=maybe(st.floats(0, 2, width=32)),
    top_k=maybe(st.integers(0, 2**32 - 1)),
    top_p=maybe(st.floats(0.125, 1, width=32)),
    min_p=maybe(st.floats(0, 1, width=32)),
    repetition_penalty=maybe(st.floats(0.125, 2, width=32)),
    presence_penalty=maybe(st.floats(-2, 2, width=32)),
    frequency_penalty=maybe(st.floats(-2, 2, width=32)),
    seed=maybe(st.integers(0, 2**64 - 1)),
    max_tokens=maybe(st.integers(10, 2**32 - 1)),
    min_tokens=maybe(st.integers(0, 10)),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=2),
    stop_token_ids=st.lists(st.integers(0, 1000), max_size=2),
    n=maybe(st.integers(1, 16)),
    logit_bias=st.dictionaries(st.integers(0, 1000), st.floats(-100, 100, width=32), max_size=3),
    logprobs=maybe(st.integers(0, 20)),
)
openings = st.builds(
    llm_service_pb2.GenerateOpen,
    messages=st.lists(turns, min_size=1, max_size=1),
    sampling=maybe(sampling),
    request_id=maybe(st.text("abc-:/.09", min_size=1)),
    priority=maybe(st.integers(-10, 10)),
    cache_salt=maybe(st.text(min_size=1, max_size=5)),
    want_replay_bundle=st.booleans(),
)

odd_numbers = st.floats(width=32) | st.sampled_from([-1.0, 0.0, 3.0])
odd_counts = st.integers(0, 2**32 - 1) | st.just(0)


@st.composite
def bent(draw: st.DrawFn) -> llm_service_pb2.GenerateOpen:
    """A sound opening with one thing changed, for better or worse."""
    opening = draw(openings)
    shown = any(part.HasField("visual") for turn in opening.messages for part in turn.parts)
    bend = draw(st.sampled_from([bend_sampling, bend_opening, bend_turn] + [bend_layout] * 2 * shown))
    bend(draw, opening)
    return opening


def bend_sampling(draw: st.DrawFn, opening: llm_service_pb2.GenerateOpen) -> None:
    params = opening.sampling
    match draw(st.sampled_from(["number", "count", "stop", "stop id", "bias"])):
        case "number":
            name = draw(st.sampled_from(["temperature", "top_p", "min_p", "repetition_penalty"]))
            setattr(params, name, draw(odd_numbers))
        case "count":
            name = draw(st.sampled_from(["max_tokens", "min_tokens", "n", "logprobs"]))
            setattr(params, name, draw(odd_counts))
        case "stop":
            params.stop.extend(draw(st.lists(st.text(max_size=300), max_size=20)))
        case "stop id":
            params.stop_token_ids.append(draw(odd_counts))
        case "bias":
            params.logit_bias[draw(st.integers(0, 3000))] = draw(odd_numbers)


def bend_opening(draw: st.DrawFn, opening: llm_service_pb2.GenerateOpen) -> None:
    match draw(st.sampled_from(["priority", "delivered", "salt", "name"])):
        case "priority":
            opening.priority = draw(st.integers(-(2**31), 2**31 - 1))
        case "delivered":
            opening.delivered_token_ids.extend(draw(st.lists(st.integers(0, 3000), max_size=20)))
        case "salt":
            opening.cache_salt = draw(st.text(max_size=200))
        case "name":
            opening.request_id = draw(st.text())


def bend_turn(draw: st.DrawFn, opening: llm_service_pb2.GenerateOpen) -> None:
    match draw(st.sampled_from(["role", "part", "turn", "no turn"])):
        case "role":
            opening.messages[0].role = draw(st.integers(0, 5))
        case "part":
            opening.messages[0].parts.append(llm_service_pb2.PromptPart())
        case "turn":
            opening.messages.append(draw(turns))
        case "no turn":
            del opening.messages[:]


def bend_layout(draw: st.DrawFn, opening: llm_service_pb2.GenerateOpen) -> None:
    layout = next(part.visual for part in opening.messages[0].parts if part.HasField("visual"))
    names = ["visual_id", "kind", "tiles", "tokens_per_tile", "hidden_size", "dtype", "grids"]
    name = draw(st.sampled_from(names))
    if name == "grids":
        layout.grids.add(columns=draw(odd_counts), rows=draw(odd_counts))
    else:
        setattr(layout, name, "" if name == "visual_id" else draw(st.integers(0, 4)))


def read(reader: RequestReader, message: llm_service_pb2.GenerateOpen) -> Request | InvalidField:
    try:
        return reader.read_open(message, opened=0.0, deadline=None).request
    except InvalidField as error:
        return error


@settings(max_examples=100, deadline=None)
@given(message=openings)
def test_a_sound_opening_becomes_a_sound_request(
    reader: RequestReader, message: llm_service_pb2.GenerateOpen
) -> None:
    request = read(reader, message)
    assert isinstance(request, Request)
    assert_sound(request)
    sent = [part.visual for turn in message.messages for part in turn.parts if part.HasField("visual")]
    assert request.visual_tokens == sum(layout.tiles for layout in sent) * TOKENS_PER_TILE
    needed = {need.visual_id: need.tiles for need in Sequence(request).needs()}
    assert needed == {layout.visual_id: layout.tiles for layout in sent}


@settings(max_examples=200, deadline=None)
@given(message=bent())
def test_anything_else_names_the_field(reader: RequestReader, message: llm_service_pb2.GenerateOpen) -> None:
    outcome = read(reader, message)
    if isinstance(outcome, InvalidField):
        fields = "messages|sampling|request_id|priority|delivered_token_ids|cache_salt"
        assert re.match(rf"open\.({fields})", outcome.field)
        assert outcome.problem
    else:
        assert_sound(outcome)


def assert_sound(request: Request) -> None:
    params = request.sampling
    assert params.max_tokens >= 1
    assert request.kv_tokens <= LIMITS.context_limit
    assert params.min_tokens <= params.max_tokens
    assert 0 <= params.temperature <= 2
    assert 0 < params.top_p <= 1
    assert 0 <= params.min_p <= 1
    assert 0 < params.repetition_penalty <= 2
    assert -2 <= params.presence_penalty <= 2
    assert -2 <= params.frequency_penalty <= 2
    assert 1 <= params.n <= 16
    assert params.logprobs is None or 0 <= params.logprobs <= 20
    assert all(-100 <= bias <= 100 for _, bias in params.logit_bias)
    assert -10 <= request.priority <= 10
    assert len(request.delivered_ids) <= params.max_tokens
    assert not request.delivered_ids or params.n == 1
    end = 0
    for slot in request.slots:
        assert end <= slot.offset < slot.end <= request.prompt_tokens
        end = slot.end


def test_a_bundle_over_its_bound_is_refused_with_the_numbers(
    reader: RequestReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = llm_service_pb2.PromptPart(text="Hello")
    turn = llm_service_pb2.PromptMessage(role=content_pb2.ROLE_USER, parts=[part])
    opening = llm_service_pb2.GenerateOpen(messages=[turn], want_replay_bundle=True)
    opening.sampling.MergeFrom(llm_service_pb2.SamplingParams(n=2, max_tokens=100))
    asked = read(reader, opening)
    assert isinstance(asked, Request)
    monkeypatch.setattr("llm_service.requests.MAX_BUNDLE_TOKENS", asked.prompt_tokens + 199)
    refused = read(reader, opening)
    assert isinstance(refused, InvalidField)
    assert refused.field == "open.want_replay_bundle"
    assert refused.metadata == {
        "tokens": str(asked.prompt_tokens + 200),
        "limit": str(asked.prompt_tokens + 199),
    }


def test_the_largest_prompt_leaves_room_for_one_token(reader: RequestReader) -> None:
    outcomes = []
    while not outcomes or isinstance(outcomes[-1], Request):
        part = llm_service_pb2.PromptPart(text="x" * (len(outcomes) + 1))
        turn = llm_service_pb2.PromptMessage(role=content_pb2.ROLE_USER, parts=[part])
        outcomes.append(read(reader, llm_service_pb2.GenerateOpen(messages=[turn])))
    *_, largest, refused = outcomes
    assert isinstance(largest, Request)
    assert isinstance(refused, ContextTooLong)
    assert (largest.prompt_tokens, largest.sampling.max_tokens) == (LIMITS.context_limit - 1, 1)
    assert refused.metadata["prompt_tokens"] == str(LIMITS.context_limit)
