"""The streamed answer: token ids in, text deltas out, ended as the reference's chat() would end it.

chat() decodes with special tokens skipped, cuts at the text `<|end|>` and strips white space at both ends.
Here the same happens on the fly, with the caller's own stop texts beside it. An answer that has to keep to a
grammar is verbatim instead: whoever asked for a form gets all of it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from llm_service.text.detokenizer import Detokenizer
from llm_service.text.stopping import CHAT_STOP_TOKEN, StopChecker
from llm_service.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class StopRules:
    """What ends an answer.

    Attributes:
        token_ids: ids that end it; their own text is not part of the answer.
        texts: texts that end it; not part of the answer either.
        min_tokens: tokens that must have come before any of these may end it.
        verbatim: whether white space at both ends of the answer stays, and the text `<|end|>` within it too.
    """

    token_ids: Set[int]
    texts: Sequence[str] = ()
    min_tokens: int = 0
    verbatim: bool = False


class AnswerStream:
    """Turns the tokens of one answer into its text. Not safe to share between threads.

    Attributes:
        stopped: whether the answer has ended, by a stop id, a stop text or `flush`.
        stop_match: the caller's stop text that ended it, if one did.
    """

    def __init__(self, tokenizer: Tokenizer, rules: StopRules) -> None:
        """Start an answer.

        Raises:
            InvalidField: a stop text is empty.
        """
        self._rules = rules
        self._detokenizer = Detokenizer(tokenizer)
        self._checker = StopChecker(rules.texts if rules.verbatim else [*rules.texts, CHAT_STOP_TOKEN])
        self._ends = _Ends(strip=not rules.verbatim)
        self._tokens = 0
        self.stopped = False
        self.stop_match: str | None = None

    def push(self, token_id: int) -> str:
        """Take the next token; the text that became certain. After the answer has stopped: nothing."""
        if self.stopped:
            return ""
        self._tokens += 1
        may_stop = self._tokens > self._rules.min_tokens
        if token_id not in self._rules.token_ids:
            return self._take(self._detokenizer.push(token_id), may_stop=may_stop)
        return self.flush() if may_stop else ""

    def flush(self) -> str:
        """End the answer; the text held back. Call it when no more tokens come, stopped or not."""
        if self.stopped:
            return ""
        text = self._take(self._detokenizer.flush(), may_stop=True)
        self.stopped = True
        return text + self._ends.push(self._checker.flush())

    def _take(self, text: str, *, may_stop: bool) -> str:
        found = self._checker.push(text, may_stop=may_stop)
        if found.match is not None:
            self.stopped = True
            self.stop_match = found.match if found.match in self._rules.texts else None
        return self._ends.push(found.text)


class _Ends:
    """Drops white space at the start of a stream of text, and holds it back at the end."""

    def __init__(self, *, strip: bool) -> None:
        self._strip = strip
        self._started = False
        self._held = ""

    def push(self, text: str) -> str:
        if not self._strip:
            return text
        text = self._held + text if self._started else text.lstrip()
        kept = text.rstrip()
        self._started = self._started or bool(kept)
        self._held = text[len(kept) :]
        return kept
