"""The replay bundle of an answer: all that its tokens depend on, and enough to get them again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from internvl.errors import ConfigError
from internvl.model_choice import ModelChoice
from internvl.v1 import content_pb2, llm_service_pb2, replay_pb2
from llm_service.replay import Comparison, Replay
from llm_service.replay_bundle import read_bundle
from tests.contract.llm_client import Answer, llm_service, opening, tile, user, visual
from tests.unit.event_loop import bounded
from tests.unit.llm_samples import TOKENS_PER_TILE

TILES = [tile("a", 0), tile("a", 1)]


def wanted(asked: llm_service_pb2.GenerateOpen) -> llm_service_pb2.GenerateOpen:
    asked.want_replay_bundle = True
    return asked


def bundle_of(answer: Answer) -> replay_pb2.ReplayBundle:
    return read_bundle(answer.result.replay_bundle)


async def replayed(
    bundle: replay_pb2.ReplayBundle, folder: Path, tiles: list[content_pb2.Tile]
) -> tuple[Comparison, ...]:
    return await asyncio.to_thread(lambda: Replay(bundle, ModelChoice(folder)).run({"a": tiles}))


@bounded
async def test_a_bundle_comes_only_when_asked_for_and_holds_the_request(folder: Path) -> None:
    asked = opening(user(visual(), "What is this?"), temperature=1.0, n=2, stop=["x"], logit_bias={7: -1.5})
    async with llm_service(folder, speculate=2) as service:
        plain = await service.answer(asked, TILES)
        answer = await service.answer(wanted(asked), TILES)
    assert not plain.result.HasField("replay_bundle")
    assert json.loads(answer.result.replay_bundle)["version"] == 1
    bundle = bundle_of(answer)
    assert len(bundle.prompt_ids) == answer.result.usage.prompt_tokens
    assert [(slot.visual_id, slot.tile, slot.length) for slot in bundle.slots] == [
        ("a", 0, TOKENS_PER_TILE),
        ("a", 1, TOKENS_PER_TILE),
    ]
    assert [layout.visual_id for layout in bundle.visuals] == ["a"]
    assert bundle.sampling.HasField("seed")  # the one that the server drew
    assert (list(bundle.sampling.stop), dict(bundle.sampling.logit_bias)) == (["x"], {7: -1.5})
    assert [list(choice.token_ids) for choice in bundle.choices] == [answer.tokens_of(n) for n in range(2)]
    assert bundle.cached_tokens == answer.result.usage.cached_tokens > 0
    assert (bundle.model.speculation, bundle.model.kv_dtype, bundle.model.model_name) == (2, "fp32", "tiny")
    assert {"numpy", "paddlepaddle"} <= set(bundle.machine.packages)
    assert bundle.machine.operators.split()[0] in ("paddle", "native")
    assert bundle.machine.weights == ""  # nobody said how to keep them


@bounded
async def test_the_tokens_come_again(folder: Path) -> None:
    grammar = llm_service_pb2.Grammar(regex="[a-d ]{4,10}!")
    openings = [
        wanted(opening(user("Hello"), temperature=1.5, n=3, max_tokens=10)),
        wanted(opening(user(visual(), "What is this?"), grammar=grammar, temperature=1.0, max_tokens=20)),
        wanted(opening(user("Hello"), max_tokens=10)),
    ]
    openings[2].delivered_token_ids.extend([300, 301])
    async with llm_service(folder, batch_invariant=True, speculate=3, kv_block_size=8) as service:
        answers = [await service.answer(asked, TILES) for asked in openings]
    for answer in answers:
        for comparison in await replayed(bundle_of(answer), folder, TILES):
            assert comparison.first_difference is None
            assert comparison.found


@bounded
async def test_other_tiles_than_those_named_are_refused(folder: Path) -> None:
    async with llm_service(folder) as service:
        bundle = bundle_of(await service.answer(wanted(opening(user(visual(), "Hello"))), TILES))
    with pytest.raises(ConfigError, match=r"tile.index: tile 0 is due, got 1"):
        await replayed(bundle, folder, [TILES[1]])
    with pytest.raises(ConfigError, match="1 of 2 tiles"):
        await replayed(bundle, folder, TILES[:1])


DAMAGES: dict[str, tuple[Callable[[replay_pb2.ReplayBundle], object], str]] = {
    "more delivered than an answer holds": (
        lambda bundle: bundle.delivered_token_ids.extend([9] * 7),
        "delivered_token_ids: must hold at most max_tokens",
    ),
    "delivered no token": (
        lambda bundle: bundle.delivered_token_ids.append(10**6),
        r"delivered_token_ids\[0\]: must be below",
    ),
    "a block for all memory": (
        lambda bundle: setattr(bundle.model, "kv_block_size", 2**32 - 1),
        "model.kv_block_size: must be 1 to",
    ),
    "no block": (
        lambda bundle: setattr(bundle.model, "kv_block_size", 0),
        "model.kv_block_size: must be 1 to",
    ),
    "a tile cut short": (
        lambda bundle: setattr(bundle.slots[0], "length", TOKENS_PER_TILE - 1),
        rf"slots\[0\]: must have {TOKENS_PER_TILE} tokens",
    ),
    "tiles on one another": (lambda bundle: setattr(bundle.slots[1], "offset", 0), r"slots\[1\]: overlaps"),
    "a tile that is not": (
        lambda bundle: setattr(bundle.slots[0], "tile", 2),
        r"slots\[0\]: .*names no tile",
    ),
    "a tile beyond": (
        lambda bundle: setattr(bundle.slots[1], "offset", 10**4),
        r"slots\[1\]: reaches beyond",
    ),
}


@bounded
async def test_a_damaged_bundle_is_refused_before_anything_is_loaded(folder: Path) -> None:
    async with llm_service(folder) as service:
        whole = bundle_of(await service.answer(wanted(opening(user(visual(), "Hello"))), TILES))
    for name, (damage, problem) in DAMAGES.items():
        bundle = replay_pb2.ReplayBundle()
        bundle.CopyFrom(whole)
        damage(bundle)
        with pytest.raises(ConfigError, match=problem) as refused:
            Replay(bundle, ModelChoice(folder))
        assert "replay bundle" in str(refused.value), name


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "too deeply"),
        (b"{}", "version 1"),
        (b"[1", "not a replay bundle"),
    ],
)
def test_what_is_no_bundle_is_told_as_such(data: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_bundle(data)


@pytest.mark.parametrize(
    ("expected", "found", "place"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2), (1,), 1), ((1,), (1, 2), 1), ((), (), None)],
)
def test_the_first_difference_is_counted_from_zero(
    expected: tuple[int, ...], found: tuple[int, ...], place: int | None
) -> None:
    assert Comparison(expected, found).first_difference == place
