"""One request on its way through the engine: what was computed, what has arrived, what was generated."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.request import Embeddings, Request, TileKey, VisualSlot


class Span(NamedTuple):
    """Visual embeddings inside a slice of a sequence; `offset` counts from the start of the slice."""

    offset: int
    embeddings: Embeddings


class Sequence:
    """Token ids of prompt and answer, and how far the model has got with them.

    Four things are stored: the tokens generated, the number of tokens computed (their keys and values are in
    the cache), the embeddings that have arrived and the rope regime of the cache. All else is derived.
    Generating is nothing but computing: a sequence whose every token is computed gets its next one sampled.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.generated: list[int] = []
        self.computed = 0
        self.cached_tokens = 0  # of the prompt, found in the cache at admission: none, nothing is shared yet
        self.regime: Hashable = None
        self._embeddings: dict[TileKey, Embeddings] = {}
        self._filled = 0  # slots, from the first, whose embeddings are here

    @property
    def prompt_length(self) -> int:
        return self.request.prompt_tokens

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return self.prompt_length + len(self.generated)

    @property
    def ready_length(self) -> int:
        """Tokens that can be computed: all before the first visual slot whose embeddings are missing."""
        missing = self.missing
        return self.length if missing is None else missing.offset

    @property
    def missing(self) -> VisualSlot | None:
        """The first slot whose embeddings have not arrived."""
        slots = self.request.slots
        return slots[self._filled] if self._filled < len(slots) else None

    @property
    def remaining(self) -> int:
        """Tokens that are ready and not computed."""
        return max(self.ready_length - self.computed, 0)

    @property
    def is_complete(self) -> bool:
        """Whether every token is computed, so that the next one can be sampled."""
        return self.computed == self.length

    @property
    def is_decoding(self) -> bool:
        """Whether only the token sampled last is left to compute."""
        return bool(self.generated) and self.computed == self.length - 1

    @property
    def is_stalled(self) -> bool:
        """Whether nothing can be computed before more embeddings arrive."""
        return self.remaining == 0 and not self.is_complete

    @property
    def is_finished(self) -> bool:
        """Whether the answer has all the tokens it may have."""
        return len(self.generated) >= self.request.sampling.max_tokens

    def receive(self, tile: TileKey, embeddings: Embeddings) -> None:
        """Take the embeddings of one tile, for every slot that shows it."""
        self._embeddings[tile] = embeddings
        while self.missing is not None and self.missing.tile in self._embeddings:
            self._filled += 1

    def advance(self, tokens: int) -> None:
        """Note that the next `tokens` tokens were computed."""
        self.computed += tokens

    def restart(self, regime: Hashable) -> None:
        """Forget what was computed: everything has to be computed again under another rope regime."""
        self.computed = 0
        self.regime = regime

    def token_ids(self, count: int) -> NDArray[np.int64]:
        """The next `count` tokens to compute."""
        start, end = self.computed, self.computed + count
        prompt = self.request.prompt_ids[start:end]
        first = max(start - self.prompt_length, 0)
        answer = self.generated[first : max(end - self.prompt_length, 0)]
        return np.concatenate([prompt, np.array(answer, np.int64)]) if answer else prompt

    def spans(self, count: int) -> Iterator[Span]:
        """The visual embeddings among the next `count` tokens, cut where the slice cuts a tile."""
        start, end = self.computed, self.computed + count
        for slot in self.request.slots:
            first, last = max(slot.offset, start), min(slot.end, end)
            if first < last:
                embeddings = self._embeddings[slot.tile]
                yield Span(first - start, embeddings[first - slot.offset : last - slot.offset])
