"""Between sequences and the model: a cache for each sequence, a chunk for each share of a step."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.scheduler import Work
from llm_service.engine.sequence import Sequence
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime


class Model(Protocol):
    """What the engine needs of `llm_service.model.ModelRunner`."""

    def new_cache(self, capacity: int) -> Any:
        """An empty cache for one sequence of at most `capacity` tokens."""
        ...

    def forward(self, chunks: Many[Chunk]) -> NDArray[np.float32]:
        """Append each chunk to its cache; logits at its last position, float32 [chunks, vocabulary]."""
        ...


class BatchRunner:
    """The engine's `Runner` on a model. Belongs to the compute thread."""

    def __init__(self, model: Model, regime_of: Callable[[int], RopeRegime]) -> None:
        """Bind a model.

        Args:
            regime_of: rope regime of a sequence, by its length in tokens.
        """
        self._model = model
        self._regime_of = regime_of
        self._caches: dict[Sequence, Any] = {}

    def run(self, work: Many[Work]) -> NDArray[np.float32]:
        """See `Runner.run`."""
        logits = self._model.forward([self._chunk(*share) for share in work])
        for sequence, tokens in work:
            sequence.advance(tokens)
        return logits

    def follow_rope(self, sequence: Sequence) -> bool:
        """See `Runner.follow_rope`."""
        regime = self._regime_of(sequence.length)
        if regime == sequence.regime:
            return False
        lost = sequence.computed > 0
        sequence.restart(regime)
        return lost

    def drop(self, sequence: Sequence) -> None:
        """See `Runner.drop`."""
        self._caches.pop(sequence, None)

    def _chunk(self, sequence: Sequence, tokens: int) -> Chunk:
        spans = tuple(VisualSpan(offset, embeddings) for offset, embeddings in sequence.spans(tokens))
        regime = self._regime_of(sequence.length)  # that of its cache: `follow_rope` has seen to it
        return Chunk(sequence.token_ids(tokens), spans, self._cache(sequence), regime)

    def _cache(self, sequence: Sequence) -> Any:
        cache = self._caches.get(sequence)
        if cache is None:
            cache = self._caches[sequence] = self._model.new_cache(sequence.request.kv_tokens)
        cache.truncate(sequence.computed)
        return cache
