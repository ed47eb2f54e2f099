"""The real nano model under the real engine, without threads: requests in, answers out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from internvl.model_choice import ModelChoice
from kernels.paged import KvDtype
from llm_service.engine.engine import Engine
from llm_service.engine.events import ChoiceEnd, Delta, Event, Failed, Finished
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request, SamplingParams
from llm_service.engine.step import Step
from llm_service.loading import LoadedModel, open_device, open_model
from llm_service.model.rope import RopeRegime
from llm_service.model.runner import ModelRunner
from llm_service.runner import BatchRunner
from llm_service.text.answer import AnswerStream, StopRules
from tests.equality.mixes import embeddings, tiles_of

NANO = Path(__file__).parents[2] / "models" / "nano"
BLOCKS = 512  # of the cache; engines use fewer, and find what others have left in them
PLACES = 8
ROPE_LIMIT = 60  # low, so that many requests cross it
BETWEEN_STEPS_S = 0.05
MOST_STEPS = 5000


class Answer(NamedTuple):
    """One of a request's answers. Equal only if every log-probability has the same bits."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    texts: tuple[str, ...]
    end: ChoiceEnd | None

    def after(self, cut: int) -> Answer:
        """What is left of an answer that came token by token, when the first `cut` have been delivered."""
        return Answer(self.tokens[cut:], self.logprobs[cut:], self.texts[cut:], self.end)

    def is_same(self, other: Answer) -> bool:
        """Whether nothing but the cut of the messages differs."""
        return (*self[:2], "".join(self.texts), self.end) == (*other[:2], "".join(other.texts), other.end)


class Nano:
    """The nano model, loaded once for one way of computing."""

    def __init__(self, *, invariant: bool) -> None:
        model = ModelChoice(NANO)
        self.loaded: LoadedModel = open_model(model)
        device = open_device(model, self.loaded.config)
        self.runner: ModelRunner = self.loaded.load_decoder(
            device, **({"batch_invariant": True} if invariant else {})
        )
        self._cache: tuple[int, KvDtype] | None = None

    def engine(self, block_size: int, kv_dtype: KvDtype, seen: Counter[str], **limits: Any) -> NanoEngine:
        """An idle engine; earlier ones are done for. What they computed stays in the cache's memory."""
        if self._cache != (block_size, kv_dtype):
            self.runner.open_cache(BLOCKS, block_size, kv_dtype)
            self._cache = block_size, kv_dtype
        wide = {"context_limit": 1000, "kv_blocks": BLOCKS, "max_running": PLACES, "step_token_budget": 512}
        return NanoEngine(self, EngineLimits(kv_block_size=block_size, **wide | limits), seen)

    def new_answer(self, sampling: SamplingParams) -> AnswerStream:
        rules = StopRules(sampling.stop_ids, sampling.stop_texts, sampling.min_tokens)
        return AnswerStream(self.loaded.tokenizer, rules)


class NanoEngine:
    """An engine, its clock, and all that was published."""

    def __init__(self, nano: Nano, limits: EngineLimits, seen: Counter[str]) -> None:
        """Make an idle engine.

        Args:
            seen: counts what happened, so that nobody proves something about what never does.
        """
        self.limits = limits
        self._seen = seen
        self._now = 0.0
        self._events: list[tuple[Request, Event]] = []
        self._runner = BatchRunner(nano.runner)
        self.engine = Engine(
            self,
            limits,
            regime_of,
            nano.new_answer,
            lambda request, event: self._events.append((request, event)),
            lambda: self._now,
        )

    def play(
        self,
        requests: Sequence[Request],
        arrivals: Sequence[int] = (),
        delays: Sequence[int] = (),
        cancelled: tuple[Request, int] | None = None,
    ) -> None:
        """Answer requests.

        Args:
            arrivals: the steps at which they come; unset: all at once.
            delays: the steps from there to their tiles.
            cancelled: one of them, and the steps after which it is cancelled.
        """
        arrivals = arrivals or [0] * len(requests)
        delays = delays or [0] * len(requests)
        last = max(map(sum, zip(arrivals, delays, strict=True)))
        for turn in range(MOST_STEPS):
            for request, arrival, delay in zip(requests, arrivals, delays, strict=True):
                if turn == arrival:
                    self.engine.submit(request)
                if turn == arrival + delay:
                    self._send_tiles(request)
            if cancelled and turn == cancelled[1]:
                self._seen["cancelled"] += not self._has_ended(cancelled[0])
                self.engine.cancel(cancelled[0])
            if turn >= last and not self.engine.has_work:
                break
            self._now += BETWEEN_STEPS_S
            self.engine.step()
        else:
            raise AssertionError("the engine never comes to rest")
        self._count()

    def answers(self, request: Request) -> tuple[Answer, ...]:
        """The answers of a request that has finished."""
        events = [event for asked, event in self._events if asked is request]
        *_, end = events
        assert isinstance(end, Finished), end.error if isinstance(end, Failed) else end
        return tuple(
            _answer([event for event in events if isinstance(event, Delta) and event.choice == number], last)
            for number, last in enumerate(end.choices)
        )

    def run(self, step: Step) -> list[NDArray[np.float32]]:
        """The engine's `Runner`: the real one, which counts what it is asked for and takes its time."""
        kinds = {share.sequence.is_decoding for share in step.shares}
        self._seen["copies"] += len(step.copies)
        self._seen["prefill beside decode"] += len(kinds) == 2
        self._now += 0.001 + 0.0001 * sum(share.tokens for share in step.shares)
        return self._runner.run(step)

    def forget(self) -> None:
        """Drop what was published, so that the same requests can be asked once more."""
        self._events.clear()

    def _send_tiles(self, request: Request) -> None:
        for tile in tiles_of(request):
            self.engine.receive_tile(request, tile, embeddings(tile))

    def _has_ended(self, request: Request) -> bool:
        return any(asked is request and isinstance(event, Finished) for asked, event in self._events)

    def _count(self) -> None:
        scheduler = self.engine._scheduler
        assert (scheduler.blocks.used, scheduler.waiting, scheduler.running) == (0, (), ())
        self._seen["preemptions"] += scheduler.preemptions
        self._seen["hit tokens"] += scheduler.prefix_hits
        for request, event in self._events:
            if isinstance(event, Delta):
                self._seen["accepted drafts"] += len(event.token_ids) - 1
            if isinstance(event, Finished):
                length = request.prompt_tokens + max(end.completion_tokens for end in event.choices) - 1
                self._seen["crossings"] += request.prompt_tokens <= ROPE_LIMIT < length


def regime_of(length: int) -> RopeRegime:
    """As `regime_for` has it, with a lower limit."""
    return RopeRegime.LONG if length > ROPE_LIMIT else RopeRegime.SHORT


def _answer(deltas: Iterable[Delta], end: ChoiceEnd) -> Answer:
    deltas = list(deltas)
    return Answer(
        tokens=tuple(token for delta in deltas for token in delta.token_ids),
        logprobs=tuple(one.chosen.logprob for delta in deltas for one in delta.logprobs),
        texts=tuple(delta.text for delta in deltas),
        end=end,
    )
