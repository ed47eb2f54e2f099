"""One step as the scheduler plans it and the model runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llm_service.engine.sequence import Sequence


class BlockCopy(NamedTuple):
    """Keys and values to duplicate before the step runs, because a shared block is about to be written."""

    source: int
    target: int


class Share(NamedTuple):
    """A sequence's part of a step: the tokens from `sequence.computed` on.

    Attributes:
        tokens: tokens of the sequence to compute, at least one.
        drafts: guessed tokens to compute behind them; only if nothing of the sequence is left then.
    """

    sequence: Sequence
    tokens: int
    drafts: tuple[int, ...] = ()

    @property
    def wanted(self) -> int:
        """Positions whose logits are wanted: none within a prompt, else the last token's and each draft's."""
        ends = self.sequence.computed + self.tokens == self.sequence.length
        return 1 + len(self.drafts) if ends else 0


@dataclass(frozen=True, slots=True)
class Step:
    """What to copy, then what to compute."""

    shares: list[Share] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)
