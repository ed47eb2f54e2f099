"""Prompt lookup: guessing the next tokens from what stood behind the same tokens before.

Answers about documents copy their input, and such a guess needs no model. A wrong one costs computing, never
a token: drafts are verified by sampling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llm_service.engine.request import Request

_FIRST_LENGTH = 4  # drafts proposed before anything is known about them
_LONGEST_PAUSE = 32  # tokens

# Tokens in a row are known by a polynomial of their ids. Two that share one cost a wrong guess.
_BASE = 1_000_003
_MODULUS = 2**64


class PromptLookup:
    """Drafts for one answer, from its prompt and from itself.

    Visual positions are never drafted, nor do drafts follow from them; stop ids are not drafted either, as
    nothing comes behind them. An index leads from every few tokens in a row to what stood behind them last,
    so that a token costs the same however long prompt and answer are.
    """

    def __init__(self, request: Request, *, shortest: int = 2, longest: int = 4) -> None:
        """Index the prompt of an answer that is still empty.

        Args:
            shortest: fewest tokens that have to stand at both places.
            longest: most tokens that are compared; the longest match counts.
        """
        self._lengths = range(shortest, longest + 1)
        self._places: dict[int, dict[int, int]] = {length: {} for length in self._lengths}
        self._ids: list[int] = request.prompt_ids.tolist()
        self._visual = frozenset(self._ids[slot.offset] for slot in request.slots)
        self._never = self._visual | request.sampling.stop_ids
        self._text_start = 0  # of the text, free of visual tokens, that the ids end with
        self._measure = _Measure()
        for start, end in _texts(request):
            self._index(start, end)
            self._text_start = start

    def extend(self, token_id: int) -> None:
        """Take the next token of the answer."""
        self._measure.extend(token_id)
        for length, key in self._tails():
            self._places[length][key] = len(self._ids)
        self._ids.append(token_id)
        if token_id in self._visual:
            self._text_start = len(self._ids)

    def propose(self, most: int) -> tuple[int, ...]:
        """Up to `most` tokens that may come next; none where nothing like it came before.

        As many as have proved right lately: twice as many as the last ones if all of those were right, one
        more than were right if some were, and none for a while after a guess that was all wrong.
        """
        drafts = tuple(self._drafts(min(most, self._measure.length())))
        self._measure.propose(drafts)
        return drafts

    def _drafts(self, count: int) -> Iterator[int]:
        place = self._match() if count > 0 else None
        if place is None:
            return
        # Behind the last token the drafts themselves go on: what repeats itself is expected to keep doing so.
        period = len(self._ids) - place
        for step in range(count):
            draft = self._ids[place + step % period]
            if draft in self._never:
                return
            yield draft

    def _match(self) -> int | None:
        """Where the ids last went on behind the most of what they end with now."""
        place = None
        for length, key in self._tails():
            place = self._places[length].get(key, place)
        return place

    def _tails(self) -> Iterator[tuple[int, int]]:
        """Lengths and keys of what the ids end with, by rising length."""
        key, power = 0, 1
        for length in range(1, min(len(self._ids) - self._text_start, self._lengths[-1]) + 1):
            key = (key + self._ids[-length] * power) % _MODULUS
            power = power * _BASE % _MODULUS
            if length in self._lengths:
                yield length, key

    def _index(self, start: int, end: int) -> None:
        """Index a text within the prompt, all at once."""
        text = np.array(self._ids[start:end], np.uint64)
        keys = np.zeros(len(text) + 1, np.uint64)  # of the tokens before each place
        for length in range(1, self._lengths[-1] + 1):
            keys[length:] += text[: max(len(keys) - length, 0)] * np.uint64(pow(_BASE, length - 1, _MODULUS))
            if length in self._lengths:
                places = range(start + length, end)
                self._places[length].update(zip(keys[length:].tolist(), places, strict=False))


class _Measure:
    """How many drafts are worth computing, by how many were right lately."""

    def __init__(self) -> None:
        self._length = _FIRST_LENGTH
        self._drafts: tuple[int, ...] = ()
        self._tokens: list[int] = []  # that came instead
        self._misses = 0
        self._pause = 0

    def propose(self, drafts: tuple[int, ...]) -> None:
        self._drafts = drafts
        self._tokens.clear()

    def extend(self, token_id: int) -> None:
        if len(self._tokens) < len(self._drafts):
            self._tokens.append(token_id)

    def length(self) -> int:
        """How many to propose now."""
        if self._tokens:
            self._learn()
        if self._pause:
            self._pause -= 1
            return 0
        return self._length

    def _learn(self) -> None:
        right = 0
        while right < len(self._tokens) and self._tokens[right] == self._drafts[right]:
            right += 1
        if right == len(self._drafts):
            self._length = 2 * right
        else:
            self._length = right + 1
        self._misses = 0 if right else self._misses + 1
        if self._misses:
            self._pause = min(2**self._misses - 1, _LONGEST_PAUSE)


def _texts(request: Request) -> Iterator[tuple[int, int]]:
    """Start and end of the prompt's text before, between and behind its visual slots."""
    start = 0
    for slot in request.slots:
        yield start, slot.offset
        start = slot.end
    yield start, request.prompt_tokens
