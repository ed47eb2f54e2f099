"""Batch invariance: passes of a fixed number of rows, and the proof that this number serves.

A product picks its inner loops by the shape of its operands, and each loop rounds in its own way. So a pass
always has the same number of rows, filled up with padding, and that number must be one for which the place
of a row within the pass changes nothing either. Which numbers do depends on the processor and on the library
of products; `find_tile` tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from internvl.errors import ConfigError
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime

# Rows of a pass, the preferred first. All of them make every tensor a whole number of vectors.
TILES = (16, 32, 48)

# By how many rows the check moves its tokens: each of them comes to five places of a pass.
_SHIFTS = (0, 1, 2, 4, 8)
_VARIANTS = len(_SHIFTS)

CHECK_BLOCK = 16
"""Block size of the cache that `find_tile` needs."""


def check_blocks() -> int:
    """Blocks of the cache that `find_tile` needs."""
    return 2 * _VARIANTS * -(-2 * max(TILES) // CHECK_BLOCK)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A chunk's rows in one pass, and the place of the chunk in the batch."""

    number: int
    chunk: Chunk


def cut(chunks: Sequence[Chunk], rows: int) -> Iterator[list[Piece]]:
    """Fill passes of `rows` rows with the chunks in order, cutting where one is full."""
    tile: list[Piece] = []
    free = rows
    for number, chunk in enumerate(chunks):
        first = 0
        while first < chunk.length:
            last = min(first + free, chunk.length)
            tile.append(Piece(number, _slice(chunk, first, last)))
            free -= last - first
            first = last
            if not free:
                yield tile
                tile, free = [], rows
    if tile:
        yield tile


def _slice(chunk: Chunk, first: int, last: int) -> Chunk:
    """Tokens `first` to `last - 1` of a chunk."""
    spans = []
    for span in chunk.visual:
        start, end = max(span.offset, first), min(span.end, last)
        if start < end:
            spans.append(VisualSpan(start - first, span.embeddings[start - span.offset : end - span.offset]))
    unwanted = chunk.length - chunk.wanted
    return replace(
        chunk,
        token_ids=chunk.token_ids[first:last],
        visual=tuple(spans),
        start=chunk.start + first,
        wanted=max(0, last - max(first, unwanted)),
    )


Forward = Callable[[Sequence[Chunk], int], list[NDArray[np.float32]]]
"""Compute chunks in passes of so many rows; the logits each wants."""


def find_tile(forward: Forward, vocab_size: int) -> int:
    """The first of `TILES` for which, on this machine, company changes no bit of any logit.

    Raises:
        ConfigError: none of them.
    """
    for rows in TILES:
        if _is_invariant(forward, rows, vocab_size):
            return rows
    raise ConfigError(
        f"batch-invariant: on this machine results depend on a row's place in passes of {TILES} rows; "
        "run with the native operators (python -m kernels.native), another number of threads, or without it"
    )


def _is_invariant(forward: Forward, rows: int, vocab_size: int) -> bool:
    """Whether tokens get the same logits at other places of a pass, among others, cut, in other blocks."""
    random = np.random.default_rng(0)
    free = iter(random.permutation(check_blocks()).tolist())
    ids = random.integers(0, vocab_size, rows + 1)

    def chunk(tokens: NDArray[np.int64]) -> Chunk:
        blocks = [next(free) for _ in range(-(-len(tokens) // CHECK_BLOCK))]
        return Chunk(tokens, (), 0, blocks, RopeRegime.SHORT, len(tokens))

    def shifted(rows_before: int) -> NDArray[np.float32]:
        ours = chunk(ids)
        if not rows_before:
            return forward([ours], rows)[0]
        return forward([chunk(random.integers(0, vocab_size, rows_before)), ours], rows)[1]

    def token_by_token(count: int) -> NDArray[np.float32]:
        whole = chunk(ids)
        steps = [_slice(whole, 0, len(ids) - count)]
        steps += [_slice(whole, i, i + 1) for i in range(len(ids) - count, len(ids))]
        return np.concatenate([forward([step], rows)[0] for step in steps])

    alone = shifted(0)
    others = [*(shifted(count) for count in _SHIFTS[1:]), token_by_token(3)]
    return all(np.array_equal(alone, other) for other in others)
