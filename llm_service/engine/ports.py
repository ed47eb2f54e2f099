"""What the engine needs from outside: a model to run, and someone who turns tokens into text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.step import Step


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
    """The model and its paged cache; `llm_service.runner.BatchRunner` is one."""

    def run(self, step: Step) -> list[NDArray[np.float32]]:
        """Do the step's copies, then compute its shares. Sequences are only read.

        Returns:
            The logits that each share wants, float32 [share.wanted, vocabulary].
        """
        ...
