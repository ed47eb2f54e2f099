"""One answer on its way through the engine: what was computed, what has arrived, what was generated."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.prefix import HashChain
from llm_service.engine.rank import Rank
from llm_service.engine.request import Embeddings, Request, TileKey, VisualNeed, VisualSlot


class Span(NamedTuple):
    """Visual embeddings inside a slice of a sequence; `offset` counts from the start of the slice."""

    offset: int
    embeddings: Embeddings


class Sequence:
    """Token ids of prompt and answer, and how far the model has got with them.

    Its state is the tokens generated, the number of tokens computed (their keys and values are in the cache),
    the blocks that hold them, the embeddings that have arrived, and the rope regime. All else is derived.
    Generating is nothing but computing: a sequence whose every token is computed gets its next one sampled.

    Attributes:
        choice: which answer of its request.
        generated: tokens of the answer; those delivered before a resume are the first.
        blocks: the block table, no longer than what is computed or about to be.
        registered: leading blocks of the table that are full and known by their hash.
        cached_tokens: tokens of the prompt that were found in the cache at the first admission.
        admitted_before: whether it ever held a running place.
        places: running places it needs: one for each answer that is still to be forked off, and its own.
        rank: its place in every order; given by the scheduler.
        chain: hashes of its blocks under the present regime; made by the block manager.
    """

    def __init__(self, request: Request, choice: int = 0) -> None:
        self.request = request
        self.choice = choice
        self.prompt_length = request.prompt_tokens
        self.generated: list[int] = list(request.delivered_ids)
        self.computed = 0
        self.blocks: list[int] = []
        self.registered = 0
        self.regime: Hashable = None
        self.cached_tokens = 0
        self.admitted_before = False
        self.places = request.sampling.n
        self.rank = Rank()
        self.chain: HashChain | None = None
        self._embeddings: dict[TileKey, Embeddings] = {}
        self._filled = 0  # slots, from the first, whose embeddings are here

    @property
    def arrival(self) -> int:
        """Counts requests in the order in which they came."""
        return self.rank.arrival

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
    def is_decoding(self) -> bool:
        """Whether only the token sampled last is left to compute."""
        return bool(self.generated) and self.computed == self.length - 1

    @property
    def is_stalled(self) -> bool:
        """Whether nothing can be computed before more embeddings arrive."""
        missing = self.missing
        return missing is not None and self.computed >= missing.offset

    def needs(self) -> tuple[VisualNeed, ...]:
        """The embeddings to send, each item once and from its first missing tile on, in order of use."""
        tiles: dict[str, int] = {}
        first: dict[str, int] = {}
        for slot in self.request.slots:
            name, number = slot.tile
            tiles[name] = max(tiles.get(name, 0), number + 1)
            if slot.tile not in self._embeddings:
                first[name] = min(first.get(name, number), number)
        return tuple(VisualNeed(name, number, tiles[name]) for name, number in first.items())

    def receive(self, tile: TileKey, embeddings: Embeddings) -> None:
        """Take the embeddings of one tile, for every slot that shows it."""
        self._embeddings[tile] = embeddings
        while self.missing is not None and self.missing.tile in self._embeddings:
            self._filled += 1

    def embeddings(self, tiles: Iterable[TileKey]) -> tuple[tuple[TileKey, Embeddings], ...]:
        """The embeddings of tiles that have arrived."""
        return tuple((tile, self._embeddings[tile]) for tile in tiles)

    def advance(self, tokens: int, sampled: Iterable[int] = ()) -> None:
        """Note that the next `tokens` tokens were computed, and what was sampled behind them."""
        self.computed += tokens
        self.generated += sampled

    def restart(self) -> None:
        """Forget what was computed: everything has to be computed again, in other blocks."""
        self.computed = 0
        self.registered = 0
        self.blocks = []

    def fork(self, choice: int) -> Sequence:
        """Another answer to the same request, as far as this one has got. It names the same blocks."""
        twin = Sequence(self.request, choice)
        twin.__dict__ |= self.__dict__
        twin.choice, twin.places, twin.rank = choice, 1, self.rank._replace(choice=choice)
        twin.generated, twin.blocks = self.generated.copy(), self.blocks.copy()
        twin.chain = None if self.chain is None else self.chain.copy()
        return twin

    def ids(self, start: int, end: int) -> NDArray[np.int64]:
        """Token ids from position `start` up to `end`, int64 [end - start]."""
        prompt_length = self.prompt_length
        if end <= prompt_length:
            return self.request.prompt_ids[start:end]
        answer = np.array(self.generated[max(start - prompt_length, 0) : end - prompt_length], np.int64)
        if start >= prompt_length:
            return answer
        return np.concatenate([self.request.prompt_ids[start:], answer])

    def token_ids(self, count: int) -> NDArray[np.int64]:
        """The next `count` tokens to compute."""
        return self.ids(self.computed, self.computed + count)

    def spans(self, count: int) -> Iterator[Span]:
        """The visual embeddings among the next `count` tokens, cut where the slice cuts a tile."""
        start, end = self.computed, self.computed + count
        if start >= self.prompt_length:
            return
        for slot in self.request.slots:
            first, last = max(slot.offset, start), min(slot.end, end)
            if first < last:
                embeddings = self._embeddings[slot.tile]
                yield Span(first - start, embeddings[first - slot.offset : last - slot.offset])
