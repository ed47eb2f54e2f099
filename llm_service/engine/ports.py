"""What the engine needs from outside: a model to run, and someone who turns tokens into text."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.scheduler import Work
from llm_service.engine.sequence import Sequence


class Answer(Protocol):
    """The text side of one answer; `llm_service.text.answer.AnswerStream` is one."""

    stopped: bool
    stop_match: str | None

    def push(self, token_id: int) -> str:
        """Take a token; the text that became certain."""
        ...

    def flush(self) -> str:
        """End the answer; the text held back."""
        ...


class Runner(Protocol):
    """The model's side of all sequences; `llm_service.runner.BatchRunner` is one."""

    def run(self, work: Many[Work]) -> NDArray[np.float32]:
        """Compute every share of a step and advance its sequence.

        Returns:
            Logits at the last computed position of each, float32 [shares, vocabulary].
        """
        ...

    def follow_rope(self, sequence: Sequence) -> bool:
        """Have a sequence computed anew if its length has left the rope regime of its cache.

        Returns:
            Whether keys and values were thrown away.
        """
        ...

    def drop(self, sequence: Sequence) -> None:
        """Free the cache of a sequence; nothing if it has none."""
        ...
