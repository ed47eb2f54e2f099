"""How one step is shared out among the sequences that may take part."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from collections.abc import Sequence as Many
from itertools import repeat
from typing import TypeAlias

from llm_service.engine.block_manager import BlockManager
from llm_service.engine.budget import PrefillBudget
from llm_service.engine.limits import EngineLimits
from llm_service.engine.rank import Rank
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import Share

Draft: TypeAlias = Callable[[Sequence, int], tuple[int, ...]]
"""Guesses at most so many tokens of what a sequence will say next."""


class StepComposer:
    """Divides a step: a token for each decode, then guesses behind them, then prefill.

    Guesses send nobody back to the queue: they take what is left, less the tokens of a block for prefill.
    """

    def __init__(
        self,
        limits: EngineLimits,
        cache: BlockManager,
        budget: PrefillBudget,
        regime_of: Callable[[int], Hashable],
    ) -> None:
        self._limits = limits
        self._cache = cache
        self._budget = budget
        self._regime_of = regime_of

    def compose(
        self, decoding: Many[Sequence], running: Many[Sequence], now: float, draft: Draft
    ) -> list[Share]:
        """The shares of a step.

        Args:
            decoding: the running sequences that decode; they have room for a token.
            running: all that are running, these too.
        """
        prefilling = []
        if len(decoding) < len(running):
            prefilling = [one for one in running if one.remaining and not one.is_decoding]
        left = self._limits.step_token_budget - len(decoding)
        reserved = min(sum(one.remaining for one in prefilling), self._limits.kv_block_size)
        if self._limits.draft_tokens:
            spare = self._cache.pool.available - self._cache.promised(running)
            drafts = self._drafts(decoding, left - reserved, spare, draft)
        else:
            drafts = [()] * len(decoding)
        rows = len(decoding) + sum(map(len, drafts))
        budget = min(self._limits.step_token_budget - rows, self._budget.tokens(rows))
        shares = list(map(Share, decoding, repeat(1), drafts))
        return shares + self._prefill(self._prefill_order(prefilling, now), budget)

    def _drafts(
        self, decoding: Many[Sequence], budget: int, spare: int, draft: Draft
    ) -> list[tuple[int, ...]]:
        """Guesses for each, and room for them, out of so many tokens and blocks."""
        guesses = []
        for sequence in decoding:
            most = min(budget, self._most_drafts(sequence, spare))
            drafts = draft(sequence, most)[:most] if most > 0 else ()
            if drafts:
                spare -= self._cache.wanting(sequence, 1 + len(drafts))
                budget -= len(drafts)
                self._cache.grow(sequence, 1 + len(drafts))
            guesses.append(drafts)
        return guesses

    def _most_drafts(self, sequence: Sequence, spare: int) -> int:
        """Guesses that `spare` blocks have room for, and that stay within the answer and its rope regime."""
        left = sequence.request.sampling.max_tokens - len(sequence.generated)
        most = min(self._limits.draft_tokens, left - 1, self._cache.room(sequence, max(spare, 0)) - 1)
        while most > 0 and self._regime_of(sequence.length + most) != sequence.regime:
            most -= 1
        return most

    def _prefill_order(self, prefilling: list[Sequence], now: float) -> list[Sequence]:
        """The older and more important ones first; among equals, the one that will be through first."""

        def place(sequence: Sequence) -> tuple[int, int, Rank]:
            level = sequence.rank.level(now, self._limits.aging_s)
            return -level, sequence.length - sequence.computed, sequence.rank

        return sorted(prefilling, key=place) if len(prefilling) > 1 else prefilling

    def _prefill(self, prefilling: list[Sequence], budget: int) -> list[Share]:
        """As many tokens of each as are ready and have room.

        What one computes in this step no other computes beside it: it is found when the step is through. So
        nobody ever waits for a block that is not being computed.
        """
        shares = []
        underway: set[bytes] = set()
        for sequence in prefilling:
            if self._cache.next_key(sequence) in underway:
                continue
            room = self._cache.room(sequence, self._cache.pool.available)
            tokens = min(sequence.remaining, budget, room)
            if tokens > 0:
                self._cache.grow(sequence, tokens)
                shares.append(Share(sequence, tokens))
                budget -= tokens
                underway.update(self._cache.keys_filled(sequence, tokens))
        return shares
