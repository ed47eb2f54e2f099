"""Penalties on tokens that were seen before, kept up to date token by token."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.request import SamplingParams

Logits: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

_HIGHEST = np.finfo(np.float32).max


class Penalties:
    """The repetition, presence and frequency penalties of one answer."""

    def __init__(self, params: SamplingParams, prompt_ids: Ids) -> None:
        self._wanted: list[_Repetition | _Counts] = []
        if params.repetition_penalty != 1:
            self._wanted.append(_Repetition(params, prompt_ids))
        if params.presence_penalty or params.frequency_penalty:
            self._wanted.append(_Counts(params))

    def __bool__(self) -> bool:
        """Whether any is asked for."""
        return bool(self._wanted)

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer."""
        for penalty in self._wanted:
            penalty.accept(token_id)

    def apply(self, logits: Logits) -> None:
        """Penalize logits [vocabulary] in place."""
        for penalty in self._wanted:
            penalty.apply(logits)


class _Repetition:
    """Divides the logits of tokens of the prompt and the answer, or multiplies those below zero."""

    def __init__(self, params: SamplingParams, prompt_ids: Ids) -> None:
        prompt = np.unique(prompt_ids)
        self._factor = np.float32(params.repetition_penalty)
        self._seen = set(prompt.tolist())
        self._ids = np.empty(len(prompt) + params.max_tokens, np.int64)
        self._ids[: len(prompt)] = prompt

    def accept(self, token_id: int) -> None:
        if token_id not in self._seen:
            self._ids[len(self._seen)] = token_id
            self._seen.add(token_id)

    def apply(self, logits: Logits) -> None:
        ids = self._ids[: len(self._seen)]
        values = logits[ids]
        with np.errstate(over="ignore", divide="ignore"):  # a factor near zero: as high as numbers go
            penalized = np.where(values > 0, values / self._factor, values * self._factor)
        logits[ids] = np.minimum(penalized, _HIGHEST)


class _Counts:
    """Subtracts a constant from the logits of the answer's tokens, and another for each time they came."""

    def __init__(self, params: SamplingParams) -> None:
        self._presence = params.presence_penalty
        self._frequency = params.frequency_penalty
        self._places: dict[int, int] = {}
        self._times: list[int] = []
        self._ids = np.empty(params.max_tokens, np.int64)
        self._amounts = np.empty(params.max_tokens, np.float32)

    def accept(self, token_id: int) -> None:
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._times):
            self._ids[place] = token_id
            self._times.append(0)
        self._times[place] += 1
        self._amounts[place] = self._presence + self._frequency * self._times[place]

    def apply(self, logits: Logits) -> None:
        logits[self._ids[: len(self._times)]] -= self._amounts[: len(self._times)]
