"""When an answer ends: the ids and the texts that stop it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from internvl.errors import ConfigError, InvalidField
from llm_service.text.tokenizer import Tokenizer
from llm_service.text.tokenizer_files import read_json

# Ids that end a turn in the reference's chat(), its conversation lists, or Phi-3's own generation config.
_STOP_TOKENS = ("</s>", "<|endoftext|>", "<|assistant|>", "<|end|>")
# The only one at which the reference's chat() stops.
CHAT_STOP_TOKEN = "<|end|>"


def default_stop_ids(tokenizer: Tokenizer, folder: Path) -> frozenset[int]:
    """Every id that may end a turn: end-of-turn tokens the tokenizer has, and eos of
    `generation_config.json`.

    Raises:
        ConfigError: `generation_config.json` exists and its `eos_token_id` is not an id or a list of ids.
    """
    named = {tokenizer.control_id(content) for content in _STOP_TOKENS} - {None}
    return frozenset({*named, tokenizer.eos_id, *_generation_eos(folder)})  # type: ignore[arg-type]


def _generation_eos(folder: Path) -> list[int]:
    file = folder / "generation_config.json"
    if not file.exists():
        return []
    eos = read_json(file).get("eos_token_id")
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        raise ConfigError(f"{file}: eos_token_id: expected an id or a list of ids")
    return ids


class StopPush(NamedTuple):
    """What one piece of text led to.

    Attributes:
        text: text that is now certain to belong to the answer.
        match: the stop text that ended the answer, if one did.
    """

    text: str
    match: str | None = None


class StopChecker:
    """Finds stop texts in a stream of text, wherever the stream is cut.

    The text ends before the stop text that is complete first; of several complete at the same character, the
    longest. Held back is only the longest end of the text that could still become a stop text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Prepare to look for `stops`.

        Raises:
            InvalidField: a stop text is empty.
        """
        for index, stop in enumerate(stops):
            if not stop:
                raise InvalidField(f"sampling.stop[{index}]", "must not be empty")
        self._scanners = [_Scanner(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._first_chars = frozenset(stop[0] for stop in stops)
        self._held = ""

    def push(self, text: str, *, may_stop: bool = True) -> StopPush:
        """Take more text. With `may_stop` off, stop texts that are complete within it are let through."""
        if not self._held and self._first_chars.isdisjoint(text):  # nearly always: no stop text begins here
            return StopPush(text)
        start = len(self._held)
        self._held += text
        for end, char in enumerate(text, start + 1):
            complete = [scanner.stop for scanner in self._scanners if scanner.advance(char)]
            if complete and may_stop:
                return self._stopped(end, complete[0])
        return StopPush(self._release(len(self._held) - max(scanner.matched for scanner in self._scanners)))

    def flush(self) -> str:
        """The text held back, once no more comes."""
        return self._release(len(self._held))

    def _stopped(self, end: int, match: str) -> StopPush:
        text = self._held[: end - len(match)]
        self._held = ""
        return StopPush(text, match)

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        return released


class _Scanner:
    """Knuth-Morris-Pratt over a stream: how much of one stop text the text ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = _borders(stop)

    def advance(self, char: str) -> bool:
        """Take one character; whether the stop text is complete with it."""
        self.matched = _extend(self.stop, self._fallback, self.matched, char)
        if self.matched < len(self.stop):
            return False
        self.matched = self._fallback[-1]  # its end may begin another
        return True


def _borders(stop: str) -> list[int]:
    """For each prefix, the length of the longest shorter prefix that it also ends with."""
    borders = [0]
    for char in stop[1:]:
        borders.append(_extend(stop, borders, borders[-1], char))
    return borders


def _extend(stop: str, borders: Sequence[int], matched: int, char: str) -> int:
    while matched and stop[matched] != char:
        matched = borders[matched - 1]
    return matched + 1 if stop[matched] == char else 0
