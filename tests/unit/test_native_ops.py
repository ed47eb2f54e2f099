"""The native operators against plain Paddle and against numpy; skipped where they cannot be built."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from kernels.native.library import Library
from kernels.native.ops import NativeOps
from kernels.ops import Activation, Norm, Ops
from kernels.paddle_ops import PaddleOps
from kernels.paged import KvDtype, KvPool, KvShape, PagedBatch
from kernels.runtime import CPU

# Largest difference between two ways of computing the same; stored numbers may round to neighbours.
TOLERANCE = {KvDtype.FLOAT32: 2e-5, KvDtype.BFLOAT16: 2e-2, KvDtype.INT8: 4e-2}


@pytest.fixture
def native(levelled: Library) -> NativeOps:
    return NativeOps(CPU, levelled)


class Rows:
    """Random fused projections of some sequences, and their rotations."""

    def __init__(self, lengths: list[int], heads: int, kv_heads: int, size: int) -> None:
        random = np.random.default_rng(len(lengths) + size)
        self.heads, self.kv_heads, self.size = heads, kv_heads, size
        width = (heads + 2 * kv_heads) * size
        self.qkv = [random.standard_normal((length, width), np.float32) for length in lengths]
        self.angles = [random.uniform(-3, 3, (length, size // 2)).astype(np.float32) for length in lengths]


def attend(
    ops: PaddleOps, pool: KvPool, rows: Rows, spans: list[tuple[int, int, int]], tables: list[list[int]]
) -> list[np.ndarray]:
    """Rows `first` to `last - 1` of some sequences (sequence, first, last) in one pass."""
    size = pool.shape.block_size
    widest = max(len(tables[sequence]) for sequence, _, _ in spans)
    table = np.zeros((len(spans), widest), np.int32)
    for row, (sequence, _, _) in enumerate(spans):
        table[row, : len(tables[sequence])] = tables[sequence]
    slots = [tables[s][t // size] * size + t % size for s, first, last in spans for t in range(first, last)]
    angles = np.concatenate([rows.angles[s][first:last] for s, first, last in spans])
    starts = np.cumsum([0, *(last - first for _, first, last in spans)]).astype(np.int32)
    batch = PagedBatch(
        starts=starts,
        pasts=np.array([first for _, first, _ in spans], np.int32),
        tables=table,
        slots=np.array(slots, np.int64),
        cos=np.cos(angles),
        sin=np.sin(angles),
        rows=len(angles),
        heads=rows.heads,
    )
    qkv = ops.tensor(np.concatenate([rows.qkv[s][first:last] for s, first, last in spans]))
    out = ops.to_numpy(ops.paged_attention(qkv, pool, 1, ops.plan_attention(batch, pool)))
    return [out[start:end] for start, end in pairwise(starts)]


def formula(rows: Rows, sequence: int) -> np.ndarray:
    """Causal attention of a whole sequence in float64."""
    count, group = len(rows.qkv[sequence]), rows.heads // rows.kv_heads
    heads = rows.qkv[sequence].astype(np.float64).reshape(count, -1, rows.size)
    pairs = heads[..., : rows.size // 2] + 1j * heads[..., rows.size // 2 :]
    pairs *= np.exp(1j * rows.angles[sequence].astype(np.float64))[:, None]
    turned = np.concatenate([pairs.real, pairs.imag], axis=-1)
    keys, values = turned[:, rows.heads :], heads[:, rows.heads + rows.kv_heads :]
    keys = keys[:, : rows.kv_heads].repeat(group, axis=1)
    scores = np.einsum("qhd,khd->hqk", turned[:, : rows.heads], keys) / np.sqrt(rows.size)
    scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, values.repeat(group, axis=1)).reshape(count, -1)


def pools(ops: PaddleOps, rows: Rows, block_size: int, dtype: KvDtype, blocks: int) -> KvPool:
    return ops.open_pool(KvShape(2, blocks, block_size, rows.kv_heads, rows.size, dtype))


def attend_tiles(ops: Ops, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    tiles, tokens, heads, _ = q.shape
    qkv = ops.tensor(np.stack([q, k, v], axis=2).reshape(tiles, tokens, -1))
    return ops.to_numpy(ops.full_attention(qkv, heads))


def tiles_formula(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Full attention of each tile in float64."""
    scores = np.einsum("tqhd,tkhd->thqk", q.astype(np.float64), k.astype(np.float64)) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("thqk,tkhd->tqhd", weights, v.astype(np.float64)).reshape(*q.shape[:2], -1)


def block_tables(lengths: list[int], block_size: int, seed: int) -> tuple[list[list[int]], int]:
    """Blocks of each sequence scattered over a pool that has three more."""
    counts = [-(-length // block_size) for length in lengths]
    free = np.random.default_rng(seed).permutation(sum(counts) + 3).tolist()
    return [[free.pop() for _ in range(count)] for count in counts], sum(counts) + 3


# Query heads, key heads, their size, tokens of a block.
SHAPES = [
    (6, 6, 32, 16),
    (6, 3, 32, 8),
    (4, 2, 96, 8),
    (4, 1, 24, 4),
    (2, 2, 48, 12),
    (2, 2, 8, 32),
    (34, 2, 16, 16),
    (2, 1, 128, 24),
]


@pytest.mark.parametrize(("heads", "kv_heads", "size", "block_size"), SHAPES)
@pytest.mark.parametrize("dtype", KvDtype)
def test_attention_equals_formula_and_plain_operators(
    native: NativeOps, heads: int, kv_heads: int, size: int, block_size: int, dtype: KvDtype
) -> None:
    lengths = [37, 1, 80]
    rows = Rows(lengths, heads, kv_heads, size)
    tables, blocks = block_tables(lengths, block_size, seed=1)
    spans = [(sequence, 0, length) for sequence, length in enumerate(lengths)]
    ours = attend(native, pools(native, rows, block_size, dtype, blocks), rows, spans, tables)
    plain = PaddleOps(CPU)
    theirs = attend(plain, pools(plain, rows, block_size, dtype, blocks), rows, spans, tables)
    for sequence in range(len(lengths)):
        np.testing.assert_allclose(ours[sequence], theirs[sequence], atol=TOLERANCE[dtype])
        np.testing.assert_allclose(ours[sequence], formula(rows, sequence), atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("heads", "kv_heads", "size", "block_size"), SHAPES)
@pytest.mark.parametrize("dtype", KvDtype)
def test_a_row_never_depends_on_its_step(
    native: NativeOps, heads: int, kv_heads: int, size: int, block_size: int, dtype: KvDtype
) -> None:
    """Whole prompts at once, and token by token in other blocks beside others: equal to the last bit."""
    lengths = [37, 5, 61]
    rows = Rows(lengths, heads, kv_heads, size)
    tables, blocks = block_tables(lengths, block_size, seed=1)
    spans = [(sequence, 0, length) for sequence, length in enumerate(lengths)]
    whole = attend(native, pools(native, rows, block_size, dtype, blocks), rows, spans, tables)
    tables, blocks = block_tables(lengths, block_size, seed=2)
    pool = pools(native, rows, block_size, dtype, blocks)
    for token in range(max(lengths)):
        live = [(s, token, token + 1) for s in reversed(range(3)) if token < lengths[s]]
        for (sequence, _, _), row in zip(live, attend(native, pool, rows, live, tables), strict=True):
            np.testing.assert_array_equal(row[0], whole[sequence][token])
    pool = pools(native, rows, block_size, dtype, blocks)
    for first, last in [(0, 3), (3, 20), (20, 37)]:
        piece = attend(native, pool, rows, [(0, first, last)], tables)
        np.testing.assert_array_equal(piece[0], whole[0][first:last])


@pytest.mark.parametrize("dtype", KvDtype)
def test_blocks_of_any_multiple_of_eight_give_the_same_bits(native: NativeOps, dtype: KvDtype) -> None:
    lengths = [37, 5, 61]
    rows = Rows(lengths, 4, 2, 32)
    spans = [(sequence, 0, length) for sequence, length in enumerate(lengths)]

    def answers(block_size: int) -> np.ndarray:
        tables, blocks = block_tables(lengths, block_size, seed=block_size)
        return np.concatenate(
            attend(native, pools(native, rows, block_size, dtype, blocks), rows, spans, tables)
        )

    expected = answers(8)
    for block_size in (16, 24, 32, 64):
        np.testing.assert_array_equal(answers(block_size), expected)


@pytest.mark.parametrize("block_size", [4, 8, 12, 16])
@pytest.mark.parametrize("dtype", KvDtype)
def test_what_nobody_wrote_is_never_read(native: NativeOps, dtype: KvDtype, block_size: int) -> None:
    """A pool full of bytes 255, which are NaN to the float types, gives what one full of zeros gives."""
    rows = Rows([21], 4, 2, 24)
    tables, blocks = block_tables([21], block_size, seed=1)
    clean, dirty = (pools(native, rows, block_size, dtype, blocks) for _ in range(2))
    dirty.layer(1).fill_(255)
    spans = [(0, 0, 21)]
    ours = attend(native, dirty, rows, spans, tables)
    np.testing.assert_array_equal(ours[0], attend(native, clean, rows, spans, tables)[0])


@pytest.mark.parametrize("dtype", KvDtype)
def test_copied_blocks_hold_the_same(native: NativeOps, dtype: KvDtype) -> None:
    rows = Rows([33], 4, 2, 32)
    pool = pools(native, rows, 16, dtype, blocks=8)
    attend(native, pool, rows, [(0, 0, 32)], [[0, 1, 2]])
    pool.copy_blocks(np.array([[0, 6], [1, 4]]))
    copied = attend(native, pool, rows, [(0, 32, 33)], [[6, 4, 5]])
    original = attend(native, pool, rows, [(0, 32, 33)], [[0, 1, 2]])
    np.testing.assert_array_equal(copied[0], original[0])


def test_padding_rows_come_out_as_zero(native: NativeOps) -> None:
    rows = Rows([7], 2, 2, 32)
    pool = pools(native, rows, 16, KvDtype.FLOAT32, blocks=2)
    batch = PagedBatch(
        starts=np.array([0, 4], np.int32),
        pasts=np.array([0], np.int32),
        tables=np.array([[1]], np.int32),
        slots=np.arange(16, 20),
        cos=np.cos(rows.angles[0]),
        sin=np.sin(rows.angles[0]),
        rows=7,
        heads=2,
    )
    plan = native.plan_attention(batch, pool)
    out = native.to_numpy(native.paged_attention(native.tensor(rows.qkv[0]), pool, 0, plan))
    assert np.all(out[:4] != 0)
    assert np.all(out[4:] == 0)


@pytest.mark.parametrize(
    ("tiles", "tokens", "heads", "size"), [(1, 1, 1, 8), (3, 17, 2, 64), (2, 65, 6, 32), (1, 100, 2, 24)]
)
def test_full_attention_equals_formula_and_plain_operators(
    native: NativeOps, tiles: int, tokens: int, heads: int, size: int
) -> None:
    random = np.random.default_rng(tokens)
    q, k, v = (3 * random.standard_normal((tiles, tokens, heads, size), np.float32) for _ in range(3))
    ours, theirs = (attend_tiles(ops, q, k, v) for ops in (native, PaddleOps(CPU)))
    np.testing.assert_allclose(ours, theirs, atol=5e-5)
    np.testing.assert_allclose(ours, tiles_formula(q, k, v), atol=5e-5)
    np.testing.assert_array_equal(attend_tiles(native, q[-1:], k[-1:], v[-1:]), ours[-1:])


def test_full_attention_of_the_released_tower(library: Library) -> None:
    """1,025 tokens, heads of 64, and scores far beyond what exp of a float32 holds."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((1, 1025, 2, 64), np.float32) for _ in range(3))
    q[0, :5] *= 100
    ours = attend_tiles(NativeOps(CPU, library), q, k, v)
    np.testing.assert_allclose(ours, tiles_formula(q, k, v), atol=1e-4)


def test_a_head_size_without_code_falls_back(native: NativeOps) -> None:
    rows = Rows([9], 2, 1, 12)
    ours = attend(native, pools(native, rows, 4, KvDtype.FLOAT32, blocks=3), rows, [(0, 0, 9)], [[2, 0, 1]])
    np.testing.assert_allclose(ours[0], formula(rows, 0), atol=2e-5)


@pytest.mark.parametrize("size", [1, 7, 16, 48, 192, 515])
@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
def test_norms_equal_plain_operators(native: NativeOps, kind: str, size: int) -> None:
    random = np.random.default_rng(size)
    x = random.standard_normal((5, size), np.float32) * 3 + 1
    gain, shift = (native.tensor(random.standard_normal(size, np.float32)) for _ in range(2))
    norm = Norm(gain, shift if kind == "LayerNorm" else None, 1e-5)
    ours, theirs = (native.to_numpy(ops.norm(native.tensor(x), norm)) for ops in (native, PaddleOps(CPU)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(native.to_numpy(native.norm(native.tensor(x[3:4]), norm)), ours[3:4])


@pytest.mark.parametrize("size", [2, 14, 32, 96, 384, 1030])
@pytest.mark.parametrize("activation", Activation)
def test_activations_equal_plain_operators(native: NativeOps, activation: Activation, size: int) -> None:
    extremes = np.array([0.0, -0.0, 30, -30, 90, -90, 3e4, -3e4], np.float32)
    normal = np.random.default_rng(size).standard_normal((5, size), np.float32)
    x = np.concatenate([normal, np.linspace(-9, 9, size)[None], np.resize(extremes, (3, size))])

    def activated(ops: Ops, rows: np.ndarray) -> np.ndarray:
        return ops.to_numpy(ops.activate(ops.tensor(rows), activation))

    ours = activated(native, x)
    np.testing.assert_allclose(ours, activated(PaddleOps(CPU), x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(activated(native, x[3:4]), ours[3:4])
