"""The ways in which a mix can be computed. None may change an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from llm_service.engine.request import Request
from tests.equality.mixes import Mix
from tests.equality.nano_engine import PLACES, Answer, Nano, NanoEngine

Answers: TypeAlias = tuple[Answer, ...]


class Outcome(NamedTuple):
    """What became of a request of the mix: its answers behind the first `cut` tokens."""

    number: int
    cut: int
    answers: Answers


@dataclass(frozen=True, slots=True)
class Stage:
    """What a mix is computed with.

    Attributes:
        seen: counts what happened.
    """

    nano: Nano
    mix: Mix
    seen: Counter[str]

    def engine(self, **limits: Any) -> NanoEngine:
        return self.nano.engine(self.mix.block_size, self.mix.kv_dtype, self.seen, **limits)

    def tight(self) -> int:
        """Blocks that the largest request needs alone, and few more."""
        size = self.mix.block_size
        most = max(request.kv_tokens for request in self.mix.requests)
        return -(-most // size) + self.mix.plan.spare_blocks

    def outcomes(self, engine: NanoEngine) -> Iterator[Outcome]:
        for number, request in enumerate(self.mix.requests):
            yield Outcome(number, 0, engine.answers(request))


Variant: TypeAlias = Callable[[Stage, list[Answers]], Iterator[Outcome]]
"""Computes a mix whose answers alone are known."""


def alone(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """Every request in an engine of its own."""
    for number, request in enumerate(stage.mix.requests):
        engine = stage.engine()
        engine.play([request])
        yield Outcome(number, 0, engine.answers(request))


def batched(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """All at once."""
    engine = stage.engine()
    engine.play(stage.mix.requests)
    yield from stage.outcomes(engine)


def staggered(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """One after the other, tiles late."""
    engine = stage.engine()
    engine.play(stage.mix.requests, stage.mix.plan.arrivals, stage.mix.plan.delays)
    yield from stage.outcomes(engine)


def chunked(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """In steps of few tokens."""
    engine = stage.engine(step_token_budget=PLACES + stage.mix.plan.budget)
    engine.play(stage.mix.requests)
    yield from stage.outcomes(engine)


def preempted(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """With little memory for all of them together."""
    engine = stage.engine(kv_blocks=stage.tight())
    engine.play(stage.mix.requests, stage.mix.plan.arrivals)
    yield from stage.outcomes(engine)


def beside_a_cancelled_one(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """Beside a double of one of them that is cancelled on its way."""
    plan = stage.mix.plan
    double = replace(stage.mix.requests[plan.victim])
    engine = stage.engine()
    engine.play([double, *stage.mix.requests], cancelled=(double, plan.cancelled_at))
    yield from stage.outcomes(engine)


def on_a_hit(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """Once more by an engine that has just answered all of them."""
    engine = stage.engine()
    for _ in range(2):
        engine.forget()
        engine.play(stage.mix.requests)
    yield from stage.outcomes(engine)


def speculated(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """With guesses."""
    engine = stage.engine(draft_tokens=stage.mix.plan.drafts)
    engine.play(stage.mix.requests)
    yield from stage.outcomes(engine)


def resumed(stage: Stage, known: list[Answers]) -> Iterator[Outcome]:
    """By another engine, from behind every token. Of several answers, the first one."""
    for number, request in enumerate(stage.mix.requests):
        tokens = known[number][0].tokens
        single = replace(request.sampling, n=1)
        cuts = [
            replace(request, sampling=single, delivered_ids=tokens[:cut]) for cut in range(len(tokens) + 1)
        ]
        engine = stage.engine(queue_limit=len(cuts))
        engine.play(cuts)
        for cut, one in enumerate(cuts):
            yield Outcome(number, cut, engine.answers(one))


def everything(stage: Stage, _: list[Answers]) -> Iterator[Outcome]:
    """All of this together."""
    plan = stage.mix.plan
    double: Request = replace(stage.mix.requests[plan.victim])
    engine = stage.engine(
        kv_blocks=stage.tight(), step_token_budget=PLACES + plan.budget, draft_tokens=plan.drafts
    )
    engine.play(
        [double, *stage.mix.requests],
        [0, *plan.arrivals],
        [0, *plan.delays],
        cancelled=(double, plan.cancelled_at),
    )
    yield from stage.outcomes(engine)


VARIANTS: dict[str, Variant] = {
    variant.__name__: variant
    for variant in (
        batched,
        staggered,
        chunked,
        preempted,
        beside_a_cancelled_one,
        on_a_hit,
        speculated,
        resumed,
        everything,
    )
}
