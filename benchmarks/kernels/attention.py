"""Attention of one layer: one new token each, a prompt, and a tile of the tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.kernels.limits import Limits
from benchmarks.kernels.rates import rate_row, seconds_of, speedup_row
from benchmarks.report import Row
from benchmarks.rounds import Rounds, alternate
from internvl.checkpoint.weight_format import WeightFormat
from kernels.native.ops import NativeOps
from kernels.native.pool import NativePool
from kernels.ops import Ops
from kernels.paddle_ops import PaddleOps
from kernels.paged import KvDtype, KvShape, PagedBatch
from kernels.runtime import CPU

_HEADS, _SIZE = 32, 96
_BLOCK = 8
_CONTEXT = 512
_ROUNDS = 7

# Layers that a run goes through, so that no cache holds the keys of the last run.
_CACHED_BYTES = 256 << 20

NATIVE, PLAIN, READ, PEAK = "native", "plain", "read", "peak"


def decode_attention(sequences: int, limits: Limits) -> Iterator[Row]:
    """One token of each sequence against 512 before it, keys and values in bfloat16."""
    each = sequences * _CONTEXT * 2 * _HEADS * _SIZE * 2
    layers = -(-_CACHED_BYTES // each)
    batch = _batch(sequences, _CONTEXT - 1, 1)
    times = _measured(f"attention of {sequences}", batch, layers, limits)
    name = f"attention_decode_{sequences}"
    yield rate_row(name, 1e-9 * each, "GB/s", times, NATIVE, READ, "bound by memory")
    yield speedup_row(name, times, NATIVE, PLAIN)


def prefill_attention(tokens: int, limits: Limits) -> Iterator[Row]:
    """A whole prompt, causal; rotation and storing of keys and values included."""
    times = _measured(f"attention of {tokens} tokens", _batch(1, 0, tokens), 1, limits)
    work = 2 * tokens * (tokens + 1) * _HEADS * _SIZE
    yield from _computed(f"attention_prefill_{tokens}", work, times)


def tower_attention(limits: Limits) -> Iterator[Row]:
    """A tile of 1,025 tokens, 16 heads of 64."""
    random = np.random.default_rng(0)
    native, plain = NativeOps(CPU, limits.library), PaddleOps(CPU)
    qkv = native.tensor(random.standard_normal((1, 1025, 3 * 16 * 64), np.float32))
    times = alternate(
        "attention of a tile",
        _ROUNDS,
        {
            NATIVE: lambda: seconds_of(lambda: native.full_attention(qkv, 16)),
            PLAIN: lambda: seconds_of(lambda: plain.full_attention(qkv, 16)),
            PEAK: lambda: limits.giga_ops(WeightFormat.BFLOAT16),
        },
    )
    yield from _computed("attention_tower_1025", 4 * 1025**2 * 1024, times)


def _computed(name: str, work: int, times: Rounds[str]) -> Iterator[Row]:
    yield rate_row(name, 1e-9 * work, "GOP/s", times, NATIVE, PEAK, "bound by multiply-adds")
    yield speedup_row(name, times, NATIVE, PLAIN)


def _measured(name: str, batch: PagedBatch, layers: int, limits: Limits) -> Rounds[str]:
    """Seconds of a layer."""
    sides: dict[str, Callable[[], float]] = {
        NATIVE: _run(NativeOps(CPU, limits.library), batch, layers),
        PLAIN: _run(PaddleOps(CPU), batch, layers),
        READ: limits.read_gb_s,
        PEAK: lambda: limits.giga_ops(WeightFormat.BFLOAT16),
    }
    return alternate(name, _ROUNDS, sides)


def _run(ops: Ops, batch: PagedBatch, layers: int) -> Callable[[], float]:
    blocks = batch.tables.size
    pool = ops.open_pool(KvShape(layers, blocks, _BLOCK, _HEADS, _SIZE, KvDtype.BFLOAT16))
    if isinstance(pool, NativePool):
        for layer in range(layers):
            pool.layer(layer).fill_(1)  # a page that nobody wrote to is all nobodies' page
    width = 3 * _HEADS * _SIZE
    qkv = ops.tensor(np.random.default_rng(0).standard_normal((batch.rows, width), np.float32))

    def all_layers() -> None:
        plan = ops.plan_attention(batch, pool)
        for layer in range(layers):
            ops.paged_attention(qkv, pool, layer, plan)

    all_layers()
    return lambda: seconds_of(all_layers) / layers


def _batch(sequences: int, past: int, rows: int) -> PagedBatch:
    """Sequences of as many tokens each, in blocks in random order."""
    blocks = -(-(past + rows) // _BLOCK)
    order = np.random.default_rng(0).permutation(sequences * blocks).astype(np.int32)
    tables = order.reshape(sequences, blocks)
    tokens = np.arange(past, past + rows)
    slots = tables[:, tokens // _BLOCK].astype(np.int64) * _BLOCK + tokens % _BLOCK
    angles = np.random.default_rng(1).uniform(-3, 3, (sequences * rows, _SIZE // 2)).astype(np.float32)
    return PagedBatch(
        starts=np.arange(sequences + 1, dtype=np.int32) * np.int32(rows),
        pasts=np.full(sequences, past, np.int32),
        tables=tables,
        slots=slots.reshape(-1),
        cos=np.cos(angles),
        sin=np.sin(angles),
        rows=sequences * rows,
        heads=_HEADS,
    )
