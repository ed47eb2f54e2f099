"""Paged attention against float64 numpy: groups, padding, masks, rotation, and each way of storing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from kernels.dispatch import open_ops
from kernels.ops import Ops
from kernels.paged import KvDtype, KvPool, KvShape, PagedBatch
from kernels.runtime import CPU

OPS = open_ops(CPU)

# Largest difference from float64, where values are about 1: rounding of what is stored dominates.
TOLERANCE = {KvDtype.FLOAT32: 2e-5, KvDtype.BFLOAT16: 2e-2, KvDtype.INT8: 4e-2}


def pool_of(ops: Ops, tokens: int, kv_heads: int, size: int, dtype: KvDtype = KvDtype.FLOAT32) -> KvPool:
    return ops.open_pool(KvShape(2, -(-tokens // 4), 4, kv_heads, size, dtype))


class Histories:
    """Random sequences whose keys and values are known to the test."""

    def __init__(self, pool: KvPool, heads: int, seed: int = 0, scale: float = 1.0) -> None:
        self._pool = pool
        self._random = np.random.default_rng(seed)
        self._heads = heads
        self._scale = scale
        self._free = self._random.permutation(pool.shape.blocks).tolist()
        self._tables: list[list[int]] = []
        self._rows: list[np.ndarray] = []  # of each sequence: [tokens, heads + 2 * kv_heads, d], not rotated

    def grow(
        self, ops: Ops, rows: list[int], layer: int = 0, padding: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append rows to each sequence: attention as computed, and as the formula has it."""
        shape = self._pool.shape
        self._tables += [[] for _ in range(len(rows) - len(self._tables))]
        empty = np.zeros((0, self._heads + 2 * shape.kv_heads, shape.head_dim), np.float32)
        self._rows += [empty for _ in range(len(rows) - len(self._rows))]
        new = [self._draw(count) for count in rows]
        pasts = [len(old) for old in self._rows]
        self._rows = [np.concatenate(pair) for pair in zip(self._rows, new, strict=True)]
        for table, sequence in zip(self._tables, self._rows, strict=True):
            while len(table) * shape.block_size < len(sequence):
                table.append(self._free.pop())
        flat = np.concatenate([*new, self._draw(padding)])
        plan = ops.plan_attention(self._batch(pasts, rows, padding), self._pool)
        qkv = ops.tensor(flat.reshape(len(flat), -1))
        ours = ops.to_numpy(ops.paged_attention(qkv, self._pool, layer, plan))
        expected = [self._by_hand(old, past) for old, past in zip(self._rows, pasts, strict=True)]
        return ours, np.concatenate([*expected, np.zeros((padding, ours.shape[1]))])

    def move(self, sequence: int) -> None:
        """Copy the blocks of a sequence, and go on with the copies."""
        copies = [(block, self._free.pop()) for block in self._tables[sequence]]
        self._pool.copy_blocks(np.array(copies, np.int64))
        self._tables[sequence] = [target for _, target in copies]

    def _draw(self, count: int) -> np.ndarray:
        shape = (count, self._heads + 2 * self._pool.shape.kv_heads, self._pool.shape.head_dim)
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(self._scale)

    def _batch(self, pasts: list[int], rows: list[int], padding: int) -> PagedBatch:
        size = self._pool.shape.block_size
        most = max(map(len, self._tables))
        tables = np.array([table + [0] * (most - len(table)) for table in self._tables], np.int32)
        places = [
            (table[position // size] * size + position % size, position)
            for table, past, count in zip(self._tables, pasts, rows, strict=True)
            for position in range(past, past + count)
        ]
        positions = np.array([position for _, position in places] + [0] * padding)
        angles = self._angles(positions).astype(np.float32)
        return PagedBatch(
            starts=np.cumsum([0, *rows]).astype(np.int32),
            pasts=np.array(pasts, np.int32),
            tables=tables,
            slots=np.array([slot for slot, _ in places], np.int64),
            cos=np.cos(angles),
            sin=np.sin(angles),
            rows=len(positions),
            heads=self._heads,
        )

    def _angles(self, positions: np.ndarray) -> np.ndarray:
        half = self._pool.shape.head_dim // 2
        return positions[:, None] * np.linspace(0.1, 1, half)[None]

    def _by_hand(self, rows: np.ndarray, past: int) -> np.ndarray:
        """One head at a time, in float64: token t sees the tokens up to t."""
        heads, kv_heads = self._heads, self._pool.shape.kv_heads
        turns = np.exp(1j * self._angles(np.arange(len(rows))))[:, None]
        half = rows.shape[-1] // 2
        turned = (rows[..., :half] + 1j * rows[..., half:]) * turns
        turned = np.concatenate([turned.real, turned.imag], axis=-1)
        hidden = np.triu(np.ones((len(rows), len(rows)), bool), 1)[past:]
        out = np.empty((len(rows) - past, heads, rows.shape[-1]))
        for head in range(heads):
            group = heads + head * kv_heads // heads
            scores = turned[past:, head] @ turned[:, group].T / math.sqrt(rows.shape[-1])
            scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = weights @ rows[:, group + kv_heads] / weights.sum(-1, keepdims=True)
        return out.reshape(len(out), -1)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("dtype", KvDtype)
def test_many_sequences_in_one_pass_equal_formula(heads: int, kv_heads: int, dtype: KvDtype) -> None:
    histories = Histories(pool_of(OPS, 1000, kv_heads, 12, dtype), heads)
    for rows in ([1, 30, 7, 4], [1, 1, 1, 1], [3, 1, 3, 20], [1, 2, 3, 1, 5], [2, 2, 2, 2, 2]):
        ours, expected = histories.grow(OPS, rows)
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("steps", [(600,), (256, 257), (1, 300, 300), (17, 1)])
def test_a_prompt_in_pieces_equals_formula(steps: tuple[int, ...]) -> None:
    histories = Histories(pool_of(OPS, 700, 2, 10), heads=4)
    for rows in steps:
        ours, expected = histories.grow(OPS, [rows])
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_sequences_of_very_different_lengths_decode_together() -> None:
    histories = Histories(pool_of(OPS, 3000, 2, 8), heads=2)
    histories.grow(OPS, [1, 5, 700, 40, 1500])
    ours, expected = histories.grow(OPS, [1, 1, 1, 1, 1])
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_layers_do_not_share_their_cache() -> None:
    pool = pool_of(OPS, 100, 2, 8)
    first, second = Histories(pool, heads=2, seed=1), Histories(pool, heads=2, seed=1)
    for layer, histories in enumerate((first, second)):
        histories._random = np.random.default_rng(layer)
        histories.grow(OPS, [9], layer)
    for layer, histories in enumerate((first, second)):
        ours, expected = histories.grow(OPS, [1], layer)
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_padding_rows_come_out_as_zeros_and_write_nothing() -> None:
    histories = Histories(pool_of(OPS, 100, 2, 8), heads=2)
    histories.grow(OPS, [6, 3])
    for rows in ([1, 1], [4, 2]):
        ours, expected = histories.grow(OPS, rows, padding=5)
        np.testing.assert_allclose(ours, expected, atol=2e-5)
        assert not ours[-5:].any()


@pytest.mark.parametrize("dtype", KvDtype)
def test_what_earlier_owners_left_behind_weighs_nothing(dtype: KvDtype) -> None:
    pool = pool_of(OPS, 60, 2, 8, dtype)
    Histories(pool, heads=2, seed=1, scale=1e6).grow(OPS, [60])
    histories = Histories(pool, heads=2, seed=2)
    for rows in ([1, 9], [1, 1], [2, 1]):
        ours, expected = histories.grow(OPS, rows)
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE[dtype])


def test_scores_that_overflow_exp_are_survived() -> None:
    histories = Histories(pool_of(OPS, 60, 2, 8), heads=2, scale=300)
    for rows in ([5, 7], [1, 1]):
        ours, expected = histories.grow(OPS, rows)
        np.testing.assert_allclose(ours, expected, atol=5e-2)


@pytest.mark.parametrize("dtype", KvDtype)
def test_blocks_are_stored_in_as_much_memory_as_announced(dtype: KvDtype) -> None:
    shape = KvShape(layers=3, blocks=5, block_size=4, kv_heads=2, head_dim=8, dtype=dtype)
    number = {KvDtype.FLOAT32: 32, KvDtype.BFLOAT16: 16, KvDtype.INT8: 12}[
        dtype
    ]  # bytes of a head, scale too
    assert shape.block_bytes == 3 * 4 * 2 * 2 * number


@pytest.mark.parametrize("dtype", KvDtype)
def test_copied_blocks_hold_the_same(dtype: KvDtype) -> None:
    pool = pool_of(OPS, 40, 2, 8, dtype)
    histories = Histories(pool, heads=2)
    histories.grow(OPS, [7])
    histories.move(0)
    ours, expected = histories.grow(OPS, [1])
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE[dtype])


def test_memory_of_a_large_pool_is_not_touched_before_use() -> None:
    """Storing one token costs the same however large the pool is: nothing is copied, nothing filled."""
    before = resident_bytes()
    pool = OPS.open_pool(KvShape(1, 1 << 18, 16, 2, 32, KvDtype.FLOAT32))  # 2 GiB
    Histories(pool, heads=2).grow(OPS, [1, 1])
    assert resident_bytes() - before < 64 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
