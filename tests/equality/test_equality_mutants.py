"""The comparison notices what it is there for: faults put into the engine on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.paged import KvDtype
from llm_service.engine import prefix
from llm_service.engine.request import TileKey
from llm_service.engine.sampler import RandomNumbers
from llm_service.model.batch import Chunk
from llm_service.model.rope import RopeRegime
from tests.equality import nano_engine
from tests.equality.comparison import differences
from tests.equality.mixes import HEADS, Mix, Plan, request
from tests.equality.nano_engine import Nano
from tests.equality.variants import Stage, Variant, alone, batched, chunked, on_a_hit, resumed, speculated

ONE, TWO = "picture-one", "picture-two"
SEEDED: dict[str, Any] = {"temperature": 1.5, "seed": 3, "min_tokens": 16, "max_tokens": 16}
GREEDY: dict[str, Any] = {"min_tokens": 16, "max_tokens": 16}
REPEATED = tuple(HEADS[1]) * 6
MIX = Mix(
    requests=(
        request(HEADS[1], TileKey(ONE, 0), REPEATED, **GREEDY),
        request(HEADS[1], TileKey(TWO, 0), REPEATED, **GREEDY),
        request(HEADS[2], REPEATED, (300, 301, 302), n=3, **SEEDED),
        request(REPEATED, **SEEDED),
    ),
    block_size=8,
    kv_dtype=KvDtype.FLOAT32,
    plan=Plan((0, 1, 2, 3), (0, 0, 0, 0), budget=9, spare_blocks=1, drafts=4, victim=0, cancelled_at=5),
)


class Mutant:
    """A model runner with a fault."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._passes = 0

    def open_cache(self, *args: Any) -> None:
        self._runner.open_cache(*args)

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        self._runner.copy_blocks(copies)

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        self._passes += 1
        logits: list[NDArray[np.float32]] = self._runner.forward(chunks)
        return logits


class SwapsTables(Mutant):
    """Now and then, two sequences read from each other's first block."""

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        if self._passes % 3 == 2 and len(chunks) > 1 and min(chunks[0].start, chunks[-1].start) > 8:
            first, *others, last = chunks
            chunks = [
                replace(first, blocks=[last.blocks[0], *first.blocks[1:]]),
                *others,
                replace(last, blocks=[first.blocks[0], *last.blocks[1:]]),
            ]
        return super().forward(chunks)


class ForgetsCopies(Mutant):
    """A shared block is written by whoever comes first, and the others' new ones hold garbage."""

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        pass


class ForgetsPicturesBehindACut(Mutant):
    """A tile that two steps share is only half seen."""

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        return super().forward([replace(one, visual=() if one.start else one.visual) for one in chunks])


class MixesUpRows(Mutant):
    """The rows behind guesses come in the wrong order."""

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        return [rows[::-1] for rows in super().forward(chunks)]


def mutant(kind: type[Mutant]) -> Callable[[Nano, pytest.MonkeyPatch], None]:
    return lambda nano, patch: patch.setattr(nano, "runner", kind(nano.runner))


def numbers_by_call(nano: Nano, patch: pytest.MonkeyPatch) -> None:
    """Random numbers in the order in which they are asked for, whatever the position."""
    real, calls = RandomNumbers.at, Counter[RandomNumbers]()

    def at(numbers: RandomNumbers, position: int) -> float:
        calls[numbers] += 1
        return real(numbers, calls[numbers])

    patch.setattr(RandomNumbers, "at", at)


def one_name_for_all_pictures(nano: Nano, patch: pytest.MonkeyPatch) -> None:
    """Block hashes do not tell two pictures apart."""
    real = prefix._digest

    def digest(kind: bytes, message: bytes) -> bytes:
        return real(kind, message.replace(TWO.encode(), ONE.encode()))

    patch.setattr(prefix, "_digest", digest)


def rope_by_nobody(nano: Nano, patch: pytest.MonkeyPatch) -> None:
    """Nothing is computed anew where the rope changes."""
    patch.setattr(nano_engine, "regime_of", lambda length: RopeRegime.SHORT)


def stage(nano: Nano) -> Stage:
    return Stage(nano, MIX, Counter())


@pytest.mark.parametrize(
    ("break_it", "variant"),
    [
        (mutant(SwapsTables), batched),
        (mutant(ForgetsCopies), batched),
        (mutant(ForgetsPicturesBehindACut), chunked),
        (mutant(MixesUpRows), speculated),
        (numbers_by_call, resumed),
        (one_name_for_all_pictures, on_a_hit),
        (rope_by_nobody, batched),
    ],
    ids=["tables", "copies", "cut tile", "rows", "numbers", "hashes", "rope"],
)
def test_a_fault_is_noticed(
    fast: Nano,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Nano, pytest.MonkeyPatch], None],
    variant: Variant,
) -> None:
    known = [outcome.answers for outcome in alone(stage(fast), [])]
    assert not wrong(known, variant, fast)
    break_it(fast, monkeypatch)
    monkeypatch.setattr(fast, "_cache", None)  # opened anew: the right keys and values may still lie in it
    assert wrong(known, variant, fast)


def wrong(known: list[Any], variant: Variant, nano: Nano) -> bool:
    """Whether tokens differ: rounding alone changes none of these answers."""
    return any(
        pair.expected.tokens != pair.found.tokens for pair in differences(known, variant(stage(nano), known))
    )
