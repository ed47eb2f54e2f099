"""What runs next. Policy only: no tensors, no clock, no threads.

Order: by rank, that is by priority and age. The first in the queue is never overtaken.
Admission: while there are running places, and blocks for the whole prompt beyond those promised to others.
Steps: every sequence that decodes gets its one token; the rest goes to guesses, then to prefill.
Memory: blocks are taken when they are written. A decode that finds none sends the last in rank back to the
queue, to be computed anew. So does the first in the queue with those behind it that stand still for a tile.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Many
from operator import attrgetter

from llm_service.engine.block_manager import BlockManager
from llm_service.engine.blocks import BlockPool
from llm_service.engine.budget import PrefillBudget
from llm_service.engine.composer import Draft, StepComposer
from llm_service.engine.estimate import Estimate
from llm_service.engine.limits import EngineLimits
from llm_service.engine.pace import Pace
from llm_service.engine.rank import Rank
from llm_service.engine.refusals import deadline_too_soon, queue_full, refuse_what_never_fits
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import BlockCopy, Share, Step

_by_rank = attrgetter("rank")


class Scheduler:
    """The queue, the running set and the blocks.

    Attributes:
        prefix_queries: tokens that admitted requests came with.
        prefix_hits: how many of them were found in the cache.
        preemptions: sequences sent back to the queue for want of room.
    """

    def __init__(self, limits: EngineLimits, pace: Pace, regime_of: Callable[[int], Hashable]) -> None:
        """Start empty.

        Args:
            pace: says when a refused request should come again.
            regime_of: rope regime of a sequence, by its length in tokens.
        """
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.preemptions = 0
        self._limits = limits
        self._pace = pace
        self._regime_of = regime_of
        self._cache = BlockManager(limits)
        self._budget = PrefillBudget(limits)
        self._composer = StepComposer(limits, self._cache, self._budget, regime_of)
        self._arrivals = 0
        self._waiting: list[Sequence] = []  # by rank
        self._running: list[Sequence] = []  # by rank

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The queue, in order."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that hold a running place, in the order of their rank."""
        return tuple(self._running)

    @property
    def blocks(self) -> BlockPool:
        """The blocks, to look at."""
        return self._cache.pool

    @property
    def kv_tokens(self) -> int:
        """Tokens in referenced blocks, shared ones counted once."""
        size = self._limits.kv_block_size
        last = {one.blocks[-1]: len(one.blocks) * size - one.computed for one in self._running if one.blocks}
        return self.blocks.used * size - sum(last.values())

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        if any(sequence.remaining for sequence in self._running):
            return True
        if not self._waiting:
            return False
        return self._find_room(self._waiting[0]) is not None or self._idler() is not None

    def submit(self, sequence: Sequence, now: float) -> None:
        """Put a sequence in the queue; `admit` may take it out at once.

        Raises:
            FailedPrecondition: it could never run, however long it waited.
            Overloaded: the queue is full; or, as `DeadlineTooSoon`, it is not expected to start in time.
        """
        request, limits = sequence.request, self._limits
        refuse_what_never_fits(request, limits)
        sequence.rank = Rank(now - request.priority * limits.aging_s, self._arrivals, sequence.choice)
        sequence.regime = self._regime_of(sequence.length)
        ahead = sum(other.rank < sequence.rank for other in self._waiting)
        if ahead or self._find_room(sequence) is None:
            self.check_queue()
            self._check_deadline(sequence, ahead, now)
            self._pace.wait(now)
        self._arrivals += 1
        insort(self._waiting, sequence, key=_by_rank)

    def estimate(self, sequence: Sequence, now: float) -> Estimate:
        """What a sequence would meet if it were submitted now."""
        sequence.rank = Rank(
            now - sequence.request.priority * self._limits.aging_s, self._arrivals, sequence.choice
        )
        sequence.regime = self._regime_of(sequence.length)
        found = self._cache.find(sequence)
        for block in found:
            for tile, embeddings in self.blocks.tiles(block):
                sequence.receive(tile, embeddings)
        ahead = sum(other.rank < sequence.rank for other in self._waiting)
        waits = bool(ahead) or self._find_room(sequence) is None
        return Estimate(
            cached_tokens=len(found) * self._limits.kv_block_size,
            needed=sequence.needs(),
            blocks=self._limits.blocks_for(sequence.request.kv_tokens),
            wait_s=self._pace.expected_wait_s(ahead) if waits else 0.0,
        )

    def check_queue(self) -> None:
        """Make sure that one more sequence may wait. Safe to ask from any thread, as a hint.

        Raises:
            Overloaded: the queue is full.
        """
        if len(self._waiting) >= self._limits.queue_limit:
            raise queue_full(self._limits.queue_limit, self._pace.retry_after_s)

    def admit(self, now: float) -> list[Sequence]:
        """Move sequences from the queue to the running set while resources last.

        Each begins with what the cache holds of it, and those that run go on with what it got since. Returned
        are those admitted for the first time.
        """
        for sequence in self._running:
            if not sequence.is_decoding:
                self._cache.catch_up(sequence)
        admitted = []
        while self._waiting and (found := self._make_room_to_start()) is not None:
            sequence = self._waiting.pop(0)
            self._cache.adopt(sequence, found)
            insort(self._running, sequence, key=_by_rank)
            admitted.append(sequence)
        self._pace.start(now, len(admitted))
        if not self._waiting:
            self._pace.rest()
        return [sequence for sequence in admitted if self._is_first_time(sequence)]

    def schedule(self, now: float, draft: Draft) -> Step:
        """Share out one step. Every block it will write is allocated, and the caller's alone."""
        copies: list[BlockCopy] = []
        decoding = self._make_room_to_decode(copies)
        return Step(self._composer.compose(decoding, self._running, now, draft), copies)

    def complete(self, share: Share, accepted: Many[int]) -> bool:
        """Note that a share was computed, and the tokens sampled from its logits: none if it wanted none.

        Returns:
            Whether the sequence outgrew its rope regime and has to be computed anew.
        """
        sequence = share.sequence
        sequence.advance(share.tokens + max(len(accepted) - 1, 0), accepted)
        self._cache.settle(sequence)
        regime = self._regime_of(sequence.length)
        if regime == sequence.regime:
            return False
        sequence.regime = regime
        self._requeue(sequence)
        return True

    def observe(self, step: Step, seconds: float) -> None:
        """Learn how long steps take."""
        self._budget.observe(step, seconds)

    def fork(self, sequence: Sequence, choice: int) -> Sequence:
        """Another answer to the prompt of a running sequence, sharing its blocks; call before `complete`.

        Raises:
            ValueError: it is not running, or has no place left for another answer.
        """
        if sequence not in self._running or sequence.places < 2:
            raise ValueError(f"no running place is reserved for answer {choice}")
        sibling = sequence.fork(choice)
        sequence.places -= 1
        self._cache.share(sibling)
        insort(self._running, sibling, key=_by_rank)
        return sibling

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out wherever it is, and give back what it held."""
        for place in (self._waiting, self._running):
            if sequence in place:
                place.remove(sequence)
        self._cache.release(sequence)

    def _find_room(self, sequence: Sequence) -> list[int] | None:
        """The cached blocks that a sequence would begin with, or None if it has to wait.

        It needs its running places, and blocks up to its next token beyond those promised to others.
        """
        taken = sum(other.places for other in self._running)
        if taken + sequence.places > self._limits.max_running:
            return None
        found = self._cache.find(sequence)
        pool = self._cache.pool
        revived = sum(not pool.references(block) for block in found)
        wanted = self._cache.blocks_for(sequence.length + 1) - len(found) + revived
        return found if wanted <= pool.available - self._cache.promised(self._running) else None

    def _make_room_to_start(self) -> list[int] | None:
        """`_find_room` for the first in the queue, at the cost of those behind it that stand still."""
        while (found := self._find_room(self._waiting[0])) is None and (idler := self._idler()):
            self._preempt(idler)
        return found

    def _idler(self) -> Sequence | None:
        """The last in rank that waits for a tile, if the first in the queue goes before it."""
        rank = self._waiting[0].rank
        return next((one for one in reversed(self._running) if one.is_stalled and one.rank > rank), None)

    def _check_deadline(self, sequence: Sequence, ahead: int, now: float) -> None:
        deadline = sequence.request.deadline
        wait = self._pace.expected_wait_s(ahead)
        if deadline is not None and wait and now + wait > deadline:
            raise deadline_too_soon(wait, deadline - now, self._pace.retry_after_s)

    def _is_first_time(self, sequence: Sequence) -> bool:
        """Note the first admission of a sequence; whether this is it."""
        if sequence.admitted_before:
            return False
        sequence.admitted_before = True
        sequence.cached_tokens = min(sequence.computed, sequence.prompt_length)
        self.prefix_queries += sequence.length
        self.prefix_hits += sequence.computed
        return True

    def _make_room_to_decode(self, copies: list[BlockCopy]) -> list[Sequence]:
        """Give every decoding sequence room for one token, by rank: so no victim has been given any.

        Victims are the last in rank that hold blocks; it may be the one that asks for them.
        """
        decoding = []
        for sequence in self.running:
            if sequence.is_decoding and (self._cache.has_place(sequence) or self._give(sequence, copies)):
                decoding.append(sequence)
        return decoding

    def _give(self, sequence: Sequence, copies: list[BlockCopy]) -> bool:
        """A place for the next token, whatever it takes; False if it took the place of this very sequence."""
        while self._cache.wanting(sequence, 1) > self.blocks.available:
            victim = next(one for one in reversed(self._running) if one.blocks)
            self._preempt(victim)
            if victim is sequence:
                return False
        if copy := self._cache.grow(sequence, 1):
            copies.append(copy)
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._requeue(victim)
        self.preemptions += 1

    def _requeue(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._cache.release(sequence)
        insort(self._waiting, sequence, key=_by_rank)
