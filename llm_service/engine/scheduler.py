"""What runs next. Policy only: no tensors, no clock, no threads.

Admission: first come, first served, as long as there is a running place and cache room; the first in the
queue is never overtaken, so a large request is not starved by small ones.
Steps: every sequence that decodes gets its one token; what is left of the step's token budget goes to
prefill, oldest first, as far as embeddings have arrived.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from internvl.errors import FailedPrecondition, Overloaded
from llm_service.engine.ledger import KvLedger
from llm_service.engine.limits import EngineLimits
from llm_service.engine.pace import Pace
from llm_service.engine.sequence import Sequence


class Work(NamedTuple):
    """A sequence's share of a step."""

    sequence: Sequence
    tokens: int


class Scheduler:
    """The queue, the running set and the cache account."""

    def __init__(self, limits: EngineLimits, pace: Pace) -> None:
        """Start empty.

        Args:
            pace: says when a refused request should come again.
        """
        self._limits = limits
        self._pace = pace
        self._ledger = KvLedger(limits.kv_budget_tokens)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The queue, in order."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that hold a running place and cache room, oldest first."""
        return tuple(self._running)

    @property
    def kv_tokens(self) -> int:
        """Cache room that is booked, in tokens."""
        return self._ledger.booked

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return any(sequence.remaining for sequence in self._running)

    def submit(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue; `admit` may take it out at once.

        Raises:
            FailedPrecondition: it could never run, however long it waited.
            Overloaded: the queue is full.
        """
        need, budget = sequence.request.kv_tokens, self._limits.kv_budget_tokens
        if need > budget:
            raise FailedPrecondition(
                f"prompt and max_tokens need {need} tokens of KV cache, this server has {budget}",
                metadata={"kv_tokens": need, "kv_budget_tokens": budget},
            )
        if self._waiting or not self._fits(sequence):
            self.check_queue()
        self._waiting.append(sequence)

    def check_queue(self) -> None:
        """Make sure that one more sequence may wait. Safe to ask from any thread, as a hint.

        Raises:
            Overloaded: the queue is full.
        """
        limit = self._limits.queue_limit
        if len(self._waiting) >= limit:
            raise Overloaded(
                f"{limit} requests are waiting, the most this server keeps",
                retry_after_s=self._pace.retry_after_s,
                metadata={"queue_limit": limit},
            )

    def admit(self) -> list[Sequence]:
        """Move sequences from the queue to the running set while resources last; those that were moved."""
        admitted = []
        while self._waiting and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._ledger.book(sequence, sequence.request.kv_tokens)
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def schedule(self) -> list[Work]:
        """Share out one step's token budget."""
        decoding = [Work(sequence, 1) for sequence in self._running if sequence.is_decoding]
        return decoding + self._prefill(self._limits.step_token_budget - len(decoding))

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out wherever it is, and give back what it held."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence in self._running:
            self._running.remove(sequence)
        self._ledger.release(sequence)

    def _prefill(self, budget: int) -> list[Work]:
        work = []
        for sequence in self._running:
            tokens = 0 if sequence.is_decoding else min(sequence.remaining, budget)
            if tokens:
                work.append(Work(sequence, tokens))
                budget -= tokens
        return work

    def _fits(self, sequence: Sequence) -> bool:
        return len(self._running) < self._limits.max_running and self._ledger.fits(sequence.request.kv_tokens)
