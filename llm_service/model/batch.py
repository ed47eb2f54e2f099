"""One forward pass as the engine describes it: chunks of sequences, prefill and decode alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from internvl.errors import InternalError
from llm_service.model.rope import RopeRegime

if TYPE_CHECKING:
    from llm_service.model.kv_cache import KvCache


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
    """The next tokens of one sequence: its whole prompt, a part of it, or one generated token.

    Attributes:
        token_ids: int64 [n], n >= 1. Ids under a visual span are ignored but must be in the vocabulary.
        visual: spans inside the chunk, in order, not overlapping.
        cache: holds the tokens before the chunk; gets those of the chunk.
        regime: rope regime of the sequence, see `llm_service.model.rope`.
    """

    token_ids: np.ndarray
    visual: tuple[VisualSpan, ...]
    cache: KvCache
    regime: RopeRegime

    @property
    def length(self) -> int:
        return int(self.token_ids.shape[0])


def check_chunks(chunks: Sequence[Chunk], vocab_size: int, hidden_size: int) -> None:
    """Refuse a batch that would read or write out of bounds, before anything is computed.

    Raises:
        InternalError: names the chunk's fault. Requests are validated before they become chunks.
    """
    if not chunks:
        raise InternalError("batch: no chunks")
    if len({id(chunk.cache) for chunk in chunks}) != len(chunks):
        raise InternalError("batch: two chunks share one cache")
    for chunk in chunks:
        ids = chunk.token_ids
        if ids.ndim != 1 or ids.size == 0 or ids.dtype != np.int64:
            raise InternalError(
                f"chunk: token ids must be int64 [n >= 1], found {ids.dtype} {list(ids.shape)}"
            )
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise InternalError(f"chunk: a token id is outside the vocabulary of {vocab_size}")
        _check_spans(chunk, hidden_size)
        chunk.cache.admit(chunk.length, chunk.regime)


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
