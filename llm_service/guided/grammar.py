"""A compiled grammar, and the guides that keep answers to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TypeAlias

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from internvl.errors import InvalidField
from llm_service.guided.vocabulary import Vocabulary

Mask: TypeAlias = NDArray[np.bool_]

_FORBIDDEN = np.float32(-np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What was compiled; many grammars may share it.

    Attributes:
        matcher: of the answer that is still empty; only ever copied.
        first: which tokens of the vocabulary may come first.
        may_be_empty: whether the empty answer is complete.
    """

    vocabulary: Vocabulary
    matcher: LLMatcher
    first: Mask
    may_be_empty: bool
    _lock: Lock = field(default_factory=Lock)

    def copy_matcher(self) -> LLMatcher:
        """A matcher for one answer. It shares nothing, so one answer's work cannot grow another's."""
        with self._lock:  # the library refuses calls from two threads at once
            return self.matcher.deep_copy()


@dataclass(frozen=True, slots=True, eq=False)
class GuidedGrammar:
    """A form that a request asks for; an `engine.request.Grammar`.

    Attributes:
        path: the request's field, for errors.
    """

    form: Form
    path: str

    def start(self, stop_ids: frozenset[int]) -> AnswerGuide:
        """The guide of an answer that is still empty.

        Args:
            stop_ids: tokens that end the answer; they may come only where it is complete.
        """
        return AnswerGuide(self, stop_ids)


class AnswerGuide:
    """Keeps one answer to its grammar; an `engine.request.Guide`. Not safe to share between threads."""

    def __init__(self, grammar: GuidedGrammar, stop_ids: frozenset[int]) -> None:
        self._form = grammar.form
        self._path = grammar.path
        self._matcher = grammar.form.copy_matcher()
        self._stop_ids = stop_ids
        self._stops = np.array(sorted(stop_ids), np.int64)
        self._started = False
        self._ended = False

    def restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of logits [vocabulary or more] with minus infinity where a token cannot come next.

        Raises:
            InvalidField: to know it would take more work than a token may, or the request's stop ids are all
                that could come.
        """
        allowed = np.zeros(len(logits), np.bool_)
        size = min(self._form.vocabulary.size, len(logits))
        allowed[:size], complete = self._next(size)
        allowed[self._stops] = complete
        if not allowed.any():
            raise InvalidField(self._path, "cannot go on without a token of stop_token_ids")
        return np.where(allowed, logits, _FORBIDDEN)

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer.

        Raises:
            InvalidField: it cannot come here, or taking it needs more work than a token may.
        """
        if token_id in self._stop_ids:
            self._end()
        elif self._ended or token_id >= self._form.vocabulary.size:
            raise _not_the_grammars()
        elif self._started:
            self._take([token_id])
        else:
            self._take_first(token_id)

    def _next(self, size: int) -> tuple[Mask, bool]:
        """Which of the first `size` tokens may come next, and whether the answer is complete."""
        if self._ended:
            return np.zeros(size, np.bool_), True
        if not self._started:
            return self._form.first[:size], self._form.may_be_empty
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise self._too_costly()
        return unpack(bits, size), is_allowed(bits, self._form.vocabulary.end_id)

    def _end(self) -> None:
        complete = self._matcher.is_accepting() if self._started else self._form.may_be_empty
        if not (self._ended or complete):
            raise _not_the_grammars()
        self._ended = True

    def _take_first(self, token_id: int) -> None:
        if not self._form.first[token_id]:
            raise _not_the_grammars()
        self._started = True
        self._take(self._form.vocabulary.spelled(token_id))

    def _take(self, token_ids: list[int]) -> None:
        if self._matcher.is_stopped():  # complete, and nothing can be added
            raise _not_the_grammars()
        if self._matcher.consume_tokens(token_ids):
            return
        if "doesn't satisfy the grammar" in self._matcher.get_error():
            raise _not_the_grammars()
        raise self._too_costly()

    def _too_costly(self) -> InvalidField:
        return InvalidField(self._path, "takes too much work for one token of the answer; simplify it")


def unpack(bits: NDArray[np.uint8], size: int) -> Mask:
    """The first `size` bits of a mask."""
    return np.unpackbits(bits, count=size, bitorder="little").view(np.bool_)


def is_allowed(bits: NDArray[np.uint8], token_id: int) -> bool:
    """One bit of a mask."""
    return bool(bits[token_id >> 3] >> (token_id & 7) & 1)


def _not_the_grammars() -> InvalidField:
    return InvalidField("open.delivered_token_ids", "must follow the grammar")
