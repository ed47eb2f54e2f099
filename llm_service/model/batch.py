"""One forward pass as the engine describes it: chunks of sequences, prefill and decode alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError
from kernels.paged import KvShape, PagedBatch
from llm_service.model.rope import RopeRegime, RotaryTables, regime_number


@dataclass(frozen=True, slots=True, eq=False)
class VisualSpan:
    """Visual tokens in place of a run of token ids.

    Attributes:
        offset: index of the first of them in the chunk.
        embeddings: [k, hidden] of any float type, as the vision encoder returns them.
    """

    offset: int
    embeddings: np.ndarray

    @property
    def end(self) -> int:
        return self.offset + len(self.embeddings)


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """The next tokens of one sequence: its whole prompt, a part of it, or a generated token and drafts.

    Attributes:
        token_ids: int64 [n], n >= 1. Ids under a visual span are ignored but must be in the vocabulary.
        visual: spans inside the chunk, in order, not overlapping.
        start: tokens of the sequence before the chunk; their keys and values are in the cache.
        blocks: block table of the sequence, with room for start + n tokens. No other chunk of the pass may
            hold a block that this one writes to.
        regime: rope regime of the sequence, see `llm_service.model.rope`; that of its cached keys too.
        wanted: how many logits to compute, those of the last tokens of the chunk.
    """

    token_ids: NDArray[np.int64]
    visual: tuple[VisualSpan, ...]
    start: int
    blocks: Sequence[int]
    regime: RopeRegime
    wanted: int = 1

    @property
    def length(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def end(self) -> int:
        """Tokens of the sequence once the chunk is computed."""
        return self.start + self.length


def check_chunks(chunks: Sequence[Chunk], vocab_size: int, hidden_size: int, cache: KvShape) -> None:
    """Refuse a batch that would read or write out of bounds, before anything is computed.

    Raises:
        InternalError: names the chunk's fault. Requests are validated before they become chunks.
    """
    if not chunks:
        raise InternalError("batch: no chunks")
    for chunk in chunks:
        ids = chunk.token_ids
        if ids.ndim != 1 or ids.size == 0 or ids.dtype != np.int64:
            raise InternalError(
                f"chunk: token ids must be int64 [n >= 1], found {ids.dtype} {list(ids.shape)}"
            )
        if not 0 <= chunk.wanted <= chunk.length:
            raise InternalError(f"chunk: {chunk.wanted} logits wanted of {chunk.length} tokens")
        _check_spans(chunk, hidden_size)
        _check_blocks(chunk, cache)
    ids = np.concatenate([chunk.token_ids for chunk in chunks])
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise InternalError(f"chunk: a token id is outside the vocabulary of {vocab_size}")
    _check_owners(chunks, cache.block_size)


def _check_spans(chunk: Chunk, hidden_size: int) -> None:
    free = 0
    for span in chunk.visual:
        if span.embeddings.ndim != 2 or span.embeddings.shape[1] != hidden_size:
            raise InternalError(
                f"visual span: expected [k, {hidden_size}], found {list(span.embeddings.shape)}"
            )
        if span.offset < free or span.end > chunk.length:
            raise InternalError("visual span: overlaps another one or leaves the chunk")
        free = span.end


def _check_blocks(chunk: Chunk, cache: KvShape) -> None:
    room = len(chunk.blocks) * cache.block_size
    if chunk.start < 0 or chunk.end > room:
        raise InternalError(f"chunk: tokens {chunk.start} to {chunk.end} exceed its blocks' {room}")
    if min(chunk.blocks) < 0 or max(chunk.blocks) >= cache.blocks:
        raise InternalError(f"chunk: a block is outside the cache of {cache.blocks}")


def _check_owners(chunks: Sequence[Chunk], block_size: int) -> None:
    written = [
        block
        for chunk in chunks
        for block in chunk.blocks[chunk.start // block_size : -(-chunk.end // block_size)]
    ]
    if len(set(written)) != len(written):
        raise InternalError("batch: two tokens would be written to one place")


def page(chunks: Sequence[Chunk], tables: RotaryTables, cache: KvShape, heads: int, rows: int) -> PagedBatch:
    """Describe checked chunks to paged attention, row by row in their order.

    Args:
        heads: query heads of the model.
        rows: at least the tokens of the chunks; the rest is padding.
    """
    lengths = np.array([chunk.length for chunk in chunks])
    starts = np.zeros(len(chunks) + 1, np.int32)
    np.cumsum(lengths, out=starts[1:])
    pasts = np.array([chunk.start for chunk in chunks], np.int32)
    used = [chunk.blocks[: -(-chunk.end // cache.block_size)] for chunk in chunks]
    blocks = np.zeros((len(chunks), max(map(len, used))), np.int32)
    for row, table in zip(blocks, used, strict=True):
        row[: len(table)] = table
    owners = np.repeat(np.arange(len(chunks)), lengths)
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - pasts, lengths)
    slots = blocks[owners, positions // cache.block_size] * np.int64(cache.block_size)
    regimes = np.repeat([regime_number(chunk.regime) for chunk in chunks], lengths)
    cos, sin = tables.lookup(padded(positions, rows), padded(regimes, rows))
    return PagedBatch(starts, pasts, blocks, slots + positions % cache.block_size, cos, sin, rows, heads)


def padded(array: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """[n] -> [rows], with zeros behind; the array itself if it is as long already."""
    return np.pad(array, (0, rows - len(array))) if rows > len(array) else array
