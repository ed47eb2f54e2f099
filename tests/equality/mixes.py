"""Random mixes of requests, and when their parts come; drawn by hypothesis."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.paged import KvDtype
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot

# Of the nano model.
TILE_TOKENS = 16
HIDDEN = 192
CONTEXT_ID = 679  # stands at visual positions
STOP_IDS = frozenset({2, 666, 667, 673})
FIRST_TEXT_ID, LAST_TEXT_ID = 259, 600
OPENING, CLOSING = (1, 676), (673, 667)  # <s><|user|> and <|end|><|assistant|>

MAX_TOKENS = 24
PICTURES = ("a", "b", "ab", "a/0")
HEADS = [tuple(np.random.default_rng(length).integers(259, 600, length)) for length in (0, 5, 14, 33)]


@dataclass(frozen=True, slots=True)
class Plan:
    """When things happen, in engine steps, and how narrow it gets. What no answer may depend on.

    Attributes:
        arrivals: when each request is submitted.
        delays: how long after that its tiles come.
        budget: tokens of a step, above the running places.
        spare_blocks: of the pool, beyond what the largest request needs.
        drafts: most tokens guessed at once.
        victim: which request has a double that is cancelled,
        cancelled_at: and when.
    """

    arrivals: tuple[int, ...]
    delays: tuple[int, ...]
    budget: int
    spare_blocks: int
    drafts: int
    victim: int
    cancelled_at: int


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests, what they are computed with, and a plan.

    Size and type of the cache's blocks belong to the mix: sums go by blocks, so others round otherwise.
    """

    requests: tuple[Request, ...]
    block_size: int
    kv_dtype: KvDtype
    plan: Plan


def embeddings(tile: TileKey) -> NDArray[np.float32]:
    """Random, different for every tile and row; as large as what the projector puts out."""
    seed = int.from_bytes(hashlib.sha256(repr(tuple(tile)).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(0, 0.3, (TILE_TOKENS, HIDDEN)).astype(np.float32)


def tiles_of(request: Request) -> list[TileKey]:
    """Its tiles in the order of the prompt, each once."""
    return list(dict.fromkeys(slot.tile for slot in request.slots))


def prompt(*parts: tuple[int, ...] | TileKey) -> tuple[NDArray[np.int64], tuple[VisualSlot, ...]]:
    """Text ids and tiles as one user turn: its ids and where the tiles go."""
    ids: list[int] = [*OPENING]
    slots = []
    for part in parts:
        if isinstance(part, TileKey):
            slots.append(VisualSlot(len(ids), TILE_TOKENS, part))
            ids += [CONTEXT_ID] * TILE_TOKENS
        else:
            ids += part
    return np.array([*ids, *CLOSING], np.int64), tuple(slots)


def request(
    *parts: tuple[int, ...] | TileKey, priority: int = 0, scope: str = "", **sampling: Any
) -> Request:
    """A request with log-probabilities, since they tell more than tokens do."""
    ids, slots = prompt(*parts)
    params = {"max_tokens": MAX_TOKENS, "stop_ids": STOP_IDS, "logprobs": 1} | sampling
    return Request("r", ids, SamplingParams(**params), slots, priority=priority, cache_scope=scope)


_text = st.one_of(
    st.lists(st.integers(FIRST_TEXT_ID, LAST_TEXT_ID), max_size=20).map(tuple),
    # Few different ids in a row: what prompt lookup guesses from.
    st.lists(st.sampled_from([300, 301, 302]), min_size=6, max_size=40).map(tuple),
)
_pictures = st.lists(
    st.tuples(st.sampled_from(PICTURES), st.integers(1, 2)), max_size=2, unique_by=lambda item: item[0]
)
_greedy = st.just({"temperature": 0.0})
_seeded = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.7, 1.0, 2.0]), "seed": st.integers(0, 2**64 - 1)},
    optional={
        "top_k": st.sampled_from([1, 5, 40]),
        "top_p": st.sampled_from([0.3, 0.9]),
        "min_p": st.sampled_from([0.02, 0.2]),
    },
)
_changes = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, MAX_TOKENS)},
    optional={
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "presence_penalty": st.sampled_from([-0.5, 1.0]),
        "frequency_penalty": st.sampled_from([-0.2, 0.6]),
        "logit_bias": st.sampled_from([((300, 4.0),), ((281, -100.0), (301, 3.0))]),
        "stop_texts": st.sampled_from([("e",), (" a", "th")]),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """One request: perhaps a shared beginning, perhaps pictures, text."""
    tiles = [TileKey(name, number) for name, count in draw(_pictures) for number in range(count)]
    parts = [draw(st.sampled_from(HEADS)), *tiles, draw(_text)]
    sampling = draw(st.one_of(_greedy, _seeded)) | draw(_changes)
    return request(
        *parts,
        priority=draw(st.integers(-2, 2)),
        scope=draw(st.sampled_from(["", "", "salt"])),
        n=draw(st.sampled_from([1, 1, 1, 2, 3])),
        min_tokens=draw(st.integers(0, sampling["max_tokens"])),
        **sampling,
    )


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    """One to five requests and a plan."""
    batch = tuple(draw(st.lists(requests(), min_size=1, max_size=5)))
    steps = st.lists(st.integers(0, 6), min_size=len(batch), max_size=len(batch)).map(tuple)
    plan = Plan(
        arrivals=draw(steps),
        delays=draw(steps),
        budget=draw(st.integers(1, 40)),
        spare_blocks=draw(st.integers(0, 4)),
        drafts=draw(st.integers(1, 6)),
        victim=draw(st.integers(0, len(batch) - 1)),
        cancelled_at=draw(st.integers(1, 12)),
    )
    block_size = draw(st.sampled_from([4, 8, 16, 32]))
    kv_dtype = draw(st.sampled_from([KvDtype.FLOAT32, KvDtype.FLOAT32, KvDtype.BFLOAT16, KvDtype.INT8]))
    return Mix(batch, block_size, kv_dtype, plan)
