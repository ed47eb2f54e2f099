"""Choosing the tokens of one answer from logits, in numpy.

Order: penalties, logit bias, grammar, stop ids while the answer is too short, temperature, top-k, top-p of
what is left, min-p. No bias allows what the grammar or the least length forbids. Where the grammar allows
nothing but stop ids, the least length gives way.

The random number of a token depends on nothing but (seed, choice, position): a request draws the same
numbers alone, in any batch, with drafts or without, and after its state was rebuilt. The first of several
answers draws what a single one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from internvl.errors import InternalError
from llm_service.engine.candidates import Ids, Logits, candidates, draw
from llm_service.engine.events import Logprobs
from llm_service.engine.logprobs import logprobs
from llm_service.engine.penalties import Penalties
from llm_service.engine.request import Request

_NUMBERS_AHEAD = 64
_WORDS_OF_A_COUNT = 4  # numbers that Philox makes of one count


class Sampled(NamedTuple):
    """A token chosen, with its log-probabilities if the request wants them."""

    token_id: int
    logprobs: Logprobs | None


class TokenSampler:
    """Chooses the tokens of one answer, in order. Each costs the same, however long the answer."""

    def __init__(self, request: Request, choice: int) -> None:
        """Start an answer that is still empty.

        Args:
            choice: which of the request's answers, from 0.
        """
        params = request.sampling
        self._params = params
        self._penalties = Penalties(params, request.prompt_ids)
        self._bias_ids: Ids = np.array([token for token, _ in params.logit_bias], np.int64)
        self._bias = np.array([amount for _, amount in params.logit_bias], np.float32)
        self._guide = params.grammar.start(params.stop_ids) if params.grammar is not None else None
        self._stop_ids: Ids = np.array(sorted(params.stop_ids), np.int64)
        self._numbers = RandomNumbers(params.seed, choice)
        self._prompt_tokens = request.prompt_tokens
        self._tokens = 0
        changes = self._penalties or params.logit_bias or params.grammar
        self._takes_best = params.temperature == 0 and not changes

    def accept(self, token_id: int) -> None:
        """Take a token that was chosen before, in order: the state goes on as if it had been chosen here.

        Raises:
            InvalidField: the grammar does not allow it here.
        """
        if self._guide is not None:
            self._guide.accept(token_id)
        self._penalties.accept(token_id)
        self._tokens += 1

    def sample(self, rows: NDArray[np.float32], drafts: Sequence[int] = ()) -> list[Sampled]:
        """Choose the next tokens; one, or more where drafts turn out right.

        Ends behind the first token that is not the draft, since later rows follow the draft, and when the
        answer has `max_tokens`. The tokens are those of one call per row.

        Args:
            rows: float32 [1 + drafts, vocabulary]; row i follows the answer so far and i drafts. Not changed.
            drafts: tokens guessed.

        Raises:
            InternalError: the logits are not numbers.
            InvalidField: the grammar is too costly to follow here.
        """
        sampled = [self._next(rows[0])]
        for row, draft in zip(rows[1:], drafts, strict=True):
            if sampled[-1].token_id != draft or self._tokens == self._params.max_tokens:
                break
            sampled.append(self._next(row))
        return sampled

    def _next(self, row: Logits) -> Sampled:
        token = self._choose(row)
        self.accept(token)
        wanted = self._params.logprobs
        return Sampled(token, None if wanted is None else logprobs(row, token, wanted))

    @property
    def _may_stop(self) -> bool:
        return self._tokens >= self._params.min_tokens

    def _choose(self, row: Logits) -> int:
        best = _best(row)
        if self._takes_best and (self._may_stop or best not in self._params.stop_ids):
            return best  # nearly always: nothing would change it
        logits = self._adjusted(row)
        if logits is not row:
            best = _best(logits)
        if self._params.temperature == 0:
            return best
        ids, weights = candidates(logits, logits[best], self._params)
        return draw(ids, weights, self._numbers.at(self._prompt_tokens + self._tokens))

    def _adjusted(self, row: Logits) -> Logits:
        """The row if nothing changes it, else a copy with penalties, bias and what is forbidden."""
        logits = row
        if self._penalties or len(self._bias):
            logits = row.copy()
            self._penalties.apply(logits)
            logits[self._bias_ids] += self._bias
        if self._guide is not None:
            logits = self._guide.restrict(logits)
        if not self._may_stop and len(self._stop_ids):
            logits = self._without_stop_ids(logits)
        return logits

    def _without_stop_ids(self, logits: Logits) -> Logits:
        longer = logits.copy()
        longer[self._stop_ids] = -np.inf
        if self._guide is not None and longer.max() == -np.inf:
            return logits
        return longer


class RandomNumbers:
    """The random numbers of one answer, by position.

    Philox keyed by seed and choice, counting positions. Made ahead for the positions that follow, because
    starting a generator takes longer than all else that is done for a token.
    """

    def __init__(self, seed: int, choice: int) -> None:
        self._key = choice << 64 | seed
        self._start = 0
        self._ahead: list[float] = []

    def at(self, position: int) -> float:
        """The number in [0, 1) of a position."""
        if not 0 <= position - self._start < len(self._ahead):
            self._start = position
            generator = np.random.Generator(np.random.Philox(key=self._key, counter=position))
            self._ahead = generator.random(_NUMBERS_AHEAD * _WORDS_OF_A_COUNT)[::_WORDS_OF_A_COUNT].tolist()
        return self._ahead[position - self._start]


def _best(logits: Logits) -> int:
    """The likeliest token; argmax finds what is not a number as well."""
    best = int(logits.argmax())
    if not math.isfinite(logits[best]):
        raise InternalError("the model's output for this request is not a number")
    return best
