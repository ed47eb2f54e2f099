"""Answers against those that a request gets alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tests.equality.nano_engine import Answer
from tests.equality.variants import Answers, Outcome


class Pair(NamedTuple):
    """An answer, and what it should be.

    Attributes:
        number: the request in its mix.
        cut: tokens delivered before.
    """

    number: int
    cut: int
    choice: int
    expected: Answer
    found: Answer

    @property
    def agreeing(self) -> int:
        """Tokens before the first that differs."""
        return agreeing(self.expected.tokens, self.found.tokens)

    @property
    def logprob_gap(self) -> float:
        """Largest difference of a log-probability before tokens differ."""
        tokens = self.agreeing
        if not tokens:
            return 0.0
        gaps = np.subtract(self.expected.logprobs[:tokens], self.found.logprobs[:tokens])
        return float(np.abs(gaps).max())


def agreeing(expected: tuple[int, ...], found: tuple[int, ...]) -> int:
    """How many tokens two answers begin with in common."""
    pairs = zip(expected, found, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))


def pairs(known: list[Answers], outcomes: Iterable[Outcome]) -> Iterator[Pair]:
    """Every answer beside the one that its request gets alone."""
    for number, cut, answers in outcomes:
        for choice, found in enumerate(answers):
            yield Pair(number, cut, choice, known[number][choice].after(cut), found)


def differences(known: list[Answers], outcomes: Iterable[Outcome]) -> list[Pair]:
    """The answers that are not to the bit what they should be."""
    return [pair for pair in pairs(known, outcomes) if not pair.expected.is_same(pair.found)]


@dataclass(slots=True)
class Drift:
    """How often answers differ where nobody promises that they do not."""

    answers: int = 0
    differing_answers: int = 0
    tokens: int = 0
    differing_tokens: int = 0
    logprob_gap: float = field(default=0.0)

    def add(self, pair: Pair) -> None:
        """Count an answer. Behind the first token that differs it is another one, so all the rest differs."""
        tokens = len(pair.expected.tokens)
        self.answers += 1
        self.differing_answers += pair.expected.tokens != pair.found.tokens
        self.tokens += tokens
        self.differing_tokens += tokens - pair.agreeing
        self.logprob_gap = max(self.logprob_gap, pair.logprob_gap)

    def summary(self) -> dict[str, float]:
        """Counts and rates, for people and for JSON."""
        return {
            "answers": self.answers,
            "answers_differing_rate": self.differing_answers / max(self.answers, 1),
            "tokens": self.tokens,
            "tokens_differing_rate": self.differing_tokens / max(self.tokens, 1),
            "largest_logprob_gap": self.logprob_gap,
        }
