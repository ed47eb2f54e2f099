"""The batch-invariant mode: equal to the last bit, in whatever company, cuts and blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from internvl.errors import ConfigError
from internvl.model_choice import ModelChoice
from kernels.dispatch import open_ops
from kernels.native.ops import NativeOps
from kernels.paged import KvDtype
from llm_service.loading import open_device, open_model
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime
from llm_service.model.row_tiles import cut, find_tile
from llm_service.model.runner import ModelRunner
from tests.unit.llm_samples import HIDDEN, write_tiny_model
from tests.unit.paged_samples import PagedSequence, Pages

LENGTHS = (40, 3, 150, 16, 97)
REGIMES = (RopeRegime.SHORT, RopeRegime.LONG, RopeRegime.SHORT, RopeRegime.LONG, RopeRegime.SHORT)
PICTURE = VisualSpan(5, np.random.default_rng(9).standard_normal((20, HIDDEN), np.float32))

Load = Callable[..., ModelRunner]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    choice = ModelChoice(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))

    def loaded(**options: Any) -> ModelRunner:
        opened = open_model(choice)
        return opened.load_decoder(open_device(choice, opened.config), **options)

    return loaded


@pytest.fixture(scope="module")
def invariant(load: Load) -> ModelRunner:
    return load(batch_invariant=True)


def texts() -> list[NDArray[np.int64]]:
    return [np.random.default_rng(length).integers(3, 900, length) for length in LENGTHS]


def spans_of(number: int, start: int, end: int) -> list[VisualSpan]:
    """What of the one picture, in the third text, falls between two tokens."""
    first, last = max(PICTURE.offset, start), min(PICTURE.end, end)
    if number != 2 or first >= last:
        return []
    rows = PICTURE.embeddings[first - PICTURE.offset : last - PICTURE.offset]
    return [VisualSpan(first - start, rows)]


def alone(pages: Pages) -> list[NDArray[np.float32]]:
    """Each text in one piece: the logits of every token."""
    return [
        pages.sequence(len(ids), regime).all(ids, *spans_of(number, 0, len(ids)))
        for number, (ids, regime) in enumerate(zip(texts(), REGIMES, strict=True))
    ]


def together(pages: Pages, seed: int) -> list[NDArray[np.float32]]:
    """All texts side by side, cut at random: single tokens, drafts, long pieces."""
    random = np.random.default_rng(seed)
    sequences = [pages.sequence(n, regime) for n, regime in zip(LENGTHS, REGIMES, strict=True)]
    parts: list[list[NDArray[np.float32]]] = [[] for _ in LENGTHS]
    while any(sequence.computed < length for sequence, length in zip(sequences, LENGTHS, strict=True)):
        numbers, chunks = [], []
        for number in random.permutation(len(LENGTHS)):
            sequence, left = sequences[number], LENGTHS[number] - sequences[number].computed
            if left and random.random() < 0.7:
                numbers.append(number)
                chunks.append(piece(sequence, number, min(left, random.choice([1, 1, 2, 5, 17, 40]))))
        for number, logits in zip(numbers, pages.runner.forward_all(chunks) if chunks else [], strict=True):
            parts[number].append(logits)
    return [np.concatenate(logits) for logits in parts]


def piece(sequence: PagedSequence, number: int, count: int) -> Chunk:
    start, end = sequence.computed, sequence.computed + count
    return sequence.next(texts()[number][start:end], *spans_of(number, start, end))


@pytest.mark.parametrize("dtype", KvDtype)
@pytest.mark.parametrize("block_size", [16, 5, 96])
def test_company_cuts_and_blocks_change_no_bit(
    invariant: ModelRunner, dtype: KvDtype, block_size: int
) -> None:
    expected = alone(Pages(invariant, 2000, block_size, dtype, seed=0))
    for seed in (1, 2, 3):
        ours = together(Pages(invariant, 2000, block_size, dtype, seed), seed)
        for logits, other in zip(ours, expected, strict=True):
            assert logits.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", KvDtype)
def test_block_sizes_that_cut_sums_alike_change_no_bit(invariant: ModelRunner, dtype: KvDtype) -> None:
    expected = alone(Pages(invariant, 2000, 8, dtype))
    for block_size in (16, 32, 64):
        ours = alone(Pages(invariant, 2000, block_size, dtype))
        assert all(np.array_equal(*pair) for pair in zip(ours, expected, strict=True))


def test_one_key_head_is_computed_alike_too_or_refused(tmp_path: Path) -> None:
    """Plain operators may treat the products of one head by their size; the check at the start sees it."""
    choice = ModelChoice(write_tiny_model(tmp_path / "tiny", num_key_value_heads=1))
    opened = open_model(choice)
    device = open_device(choice, opened.config)
    try:
        runner = opened.load_decoder(device, batch_invariant=True)
    except ConfigError:
        assert not isinstance(open_ops(device), NativeOps)
        return
    expected = alone(Pages(runner, 2000, seed=0))
    for seed in (1, 2, 3):
        ours = together(Pages(runner, 2000, seed=seed), seed)
        assert all(np.array_equal(*pair) for pair in zip(ours, expected, strict=True))


def test_fast_mode_makes_no_such_promise(load: Load) -> None:
    """And so the test above can fail."""
    fast = load()
    expected = alone(Pages(fast, 2000))
    ours = together(Pages(fast, 2000, seed=1), seed=1)
    assert any(not np.array_equal(*pair) for pair in zip(ours, expected, strict=True))


def test_invariant_mode_computes_the_same_model(load: Load, invariant: ModelRunner) -> None:
    for ours, fast in zip(alone(Pages(invariant, 2000)), alone(Pages(load(), 2000)), strict=True):
        np.testing.assert_allclose(ours, fast, atol=1e-5)


def test_wanted_logits_are_those_of_the_last_tokens(invariant: ModelRunner) -> None:
    ids = texts()[0]
    whole = Pages(invariant).sequence(40).all(ids)
    for wanted in (0, 1, 3, 30, 40):
        chunk = Pages(invariant).sequence(40).next(ids, wanted=wanted)
        (logits,) = invariant.forward([chunk])
        np.testing.assert_array_equal(logits, whole[40 - wanted :])


def test_passes_are_full_and_hold_every_token_once() -> None:
    chunks = [
        Chunk(np.arange(n, dtype=np.int64) + 100 * n, (), 7, [0], RopeRegime.SHORT, 2) for n in (3, 40, 2, 9)
    ]
    passes = list(cut(chunks, 16))
    assert [sum(piece.chunk.length for piece in one) for one in passes] == [16, 16, 16, 6]
    for number, chunk in enumerate(chunks):
        pieces = [piece.chunk for one in passes for piece in one if piece.number == number]
        assert np.concatenate([piece.token_ids for piece in pieces]).tolist() == chunk.token_ids.tolist()
        assert [piece.start for piece in pieces] == [7, *(piece.end for piece in pieces[:-1])]
        assert sum(piece.wanted for piece in pieces) == 2


def model_with_a_fault(good: set[int]) -> Callable[[Sequence[Chunk], int], list[NDArray[np.float32]]]:
    """Its logits depend on a token's place in the pass, unless passes have a good number of rows."""

    def forward(chunks: Sequence[Chunk], rows: int) -> list[NDArray[np.float32]]:
        logits, row = [], 0
        for chunk in chunks:
            places = np.arange(row, row + chunk.length) % rows
            fault = np.where((places >= rows - 2) & (rows not in good), np.float32(1e-7), np.float32(0))
            logits.append((chunk.token_ids + fault).astype(np.float32)[:, None] / 1e6 + fault[:, None])
            row += chunk.length
        return logits

    return forward


def test_a_number_of_rows_that_fails_the_check_is_not_taken() -> None:
    assert find_tile(model_with_a_fault({16, 32}), 900) == 16
    assert find_tile(model_with_a_fault({32, 48}), 900) == 32
    with pytest.raises(ConfigError, match="on this machine results depend on a row's place"):
        find_tile(model_with_a_fault(set()), 900)
