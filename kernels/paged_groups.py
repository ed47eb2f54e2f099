"""How the sequences of a pass are put together for attention.

Many that decode together become one group, padded to the longest of them; a long prompt becomes several, some
rows each. The scores of a group are bounded, and so is what it copies out of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kernels.paged import KvShape, PagedBatch

# Bounds of a group: of its scores, and of the numbers gathered for its keys.
_MAX_SCORES = 1 << 24
_MAX_GATHERED = 1 << 20
# Of one prompt: not so many rows that most of a causal block lies above the diagonal.
_MAX_ROWS = 256
# Sequences up to this many rows are computed with others of as many rows.
_FEW_ROWS = 16
# Padding that a second group would save but not repay, in tokens.
_WORTHLESS_PADDING = 400


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Consecutive sequences with the same number of rows each, or some rows of one sequence.

    Attributes:
        start: first row of the batch; `rows` rows of each sequence follow.
        pasts: int32 [sequences]; tokens before each one's first row here.
        tables: int32 [sequences, blocks]; as far as any of them needs.
        rows: of each sequence.
    """

    start: int
    pasts: NDArray[np.int32]
    tables: NDArray[np.int32]
    rows: int

    @property
    def sequences(self) -> int:
        return len(self.pasts)

    @property
    def end(self) -> int:
        """Last row + 1."""
        return self.start + self.sequences * self.rows

    def mask(self, tokens: int) -> NDArray[np.float32]:
        """0 where a row sees a token and -inf where not: [sequences, rows, tokens]."""
        last = self.pasts[:, None] + np.arange(self.rows)
        hidden = np.arange(tokens) > last[:, :, None]
        return np.where(hidden, np.float32(-math.inf), np.float32(0))


def spans(batch: PagedBatch, shape: KvShape) -> Iterator[Span]:
    """Cut a batch into groups: sequences side by side with as many rows and about as many blocks."""
    rows: list[int] = np.diff(batch.starts).tolist()
    blocks: list[int] = (-(-(batch.pasts + rows) // shape.block_size)).tolist()
    first = 0
    while first < len(rows):
        if rows[first] > _FEW_ROWS:
            yield from _spans_of_one(batch, first, shape)
            first += 1
            continue
        last = _end_of_group(rows, blocks, first, batch.heads, shape)
        longest = max(blocks[first:last])
        tables = batch.tables[first:last, :longest]
        yield Span(int(batch.starts[first]), batch.pasts[first:last], tables, rows[first])
        first = last


def _end_of_group(rows: list[int], blocks: list[int], first: int, heads: int, shape: KvShape) -> int:
    longest = total = 0
    for number in range(first, len(rows)):
        longest, total = max(longest, blocks[number]), total + blocks[number]
        padded = longest * (number + 1 - first)
        tokens = padded * shape.block_size
        fits = (
            rows[number] == rows[first]
            and (padded - total) * shape.block_size <= _WORTHLESS_PADDING
            and tokens * shape.kv_heads * shape.head_dim <= _MAX_GATHERED
            and tokens * heads * rows[first] <= _MAX_SCORES
        )
        if number > first and not fits:
            return number
    return len(rows)


def _spans_of_one(batch: PagedBatch, number: int, shape: KvShape) -> Iterator[Span]:
    first, end = int(batch.starts[number]), int(batch.starts[number + 1])
    past = int(batch.pasts[number])
    at_once = max(1, min(_MAX_ROWS, _MAX_SCORES // (batch.heads * (past + end - first))))
    for start, stop in pairwise([*range(first, end, at_once), end]):
        blocks = -(-(past + stop - first) // shape.block_size)
        tables = batch.tables[number : number + 1, :blocks]
        yield Span(start, np.array([past + start - first], np.int32), tables, stop - start)
