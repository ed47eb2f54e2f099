"""Between the engine and the model: a chunk for each share of a step."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError
from llm_service.engine.step import Share, Step
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime


class Model(Protocol):
    """What the engine needs of `llm_service.model.runner.ModelRunner`."""

    def copy_blocks(self, pairs: Many[tuple[int, int]]) -> None:
        """Copy whole blocks of the cache: (source, target) of each."""
        ...

    def forward(self, chunks: Many[Chunk]) -> list[NDArray[np.float32]]:
        """Compute the chunks; the logits each wants, float32 [wanted, vocabulary]."""
        ...


class BatchRunner:
    """The engine's `Runner` on a model whose cache is open. Belongs to the compute thread."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, step: Step) -> list[NDArray[np.float32]]:
        """See `Runner.run`."""
        self._model.copy_blocks(step.copies)
        return self._model.forward([_chunk(share) for share in step.shares])


def _chunk(share: Share) -> Chunk:
    sequence = share.sequence
    if not isinstance(sequence.regime, RopeRegime):
        raise InternalError(f"sequence: its rope regime is {sequence.regime!r}")
    ids = sequence.token_ids(share.tokens)
    if share.drafts:
        ids = np.concatenate([ids, np.array(share.drafts, np.int64)])
    return Chunk(
        token_ids=ids,
        visual=tuple(VisualSpan(span.offset, span.embeddings) for span in sequence.spans(share.tokens)),
        start=sequence.computed,
        blocks=sequence.blocks,
        regime=sequence.regime,
        wanted=share.wanted,
    )
