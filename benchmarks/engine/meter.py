"""A runner that watches: between the engine and its model, where every step passes as plain values."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llm_service.engine.ports import Runner
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import Step


class MeteredRunner:
    """Passes steps on, and notes how long the model takes.

    Attributes:
        step: the last one.
        seconds: that the model took for it.
        watch: is shown every step before it runs, outside of what is timed.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.step = Step()
        self.seconds = 0.0
        self.watch: Callable[[Step], None] | None = None

    def run(self, step: Step) -> list[NDArray[np.float32]]:
        """See `Runner.run`."""
        if self.watch:
            self.watch(step)
        began = time.perf_counter()
        logits = self._runner.run(step)
        self.seconds = time.perf_counter() - began
        self.step = step
        return logits


class CacheMeter:
    """How much of the cache blocks that sequences hold is empty, worked out from block tables and lengths.

    Nothing here asks the engine's block pool. Every step counts the same.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._sequences: dict[Sequence, int] = {}
        self._shares: list[float] = []

    def watch(self, step: Step) -> None:
        """Look at the cache as it is while this step runs."""
        self._sequences = {each: each.computed for each in self._sequences if each.blocks}
        for share in step.shares:
            self._sequences[share.sequence] = share.sequence.computed + share.tokens + len(share.drafts)
        slots = held = 0
        for filled in self._filled_slots().values():
            slots += self._block_size
            held += filled
        if slots:
            self._shares.append(1 - held / slots)

    @property
    def waste(self) -> float:
        """Share of the slots in referenced blocks that hold no token of any sequence, mean over the steps."""
        return sum(self._shares) / len(self._shares)

    def _filled_slots(self) -> dict[int, int]:
        """Of each block that a sequence holds: the slots in use, by the holder that uses most of it."""
        filled: dict[int, int] = {}
        for sequence, tokens in self._sequences.items():
            for number, block in enumerate(sequence.blocks):
                used = min(max(tokens - number * self._block_size, 0), self._block_size)
                filled[block] = max(filled.get(block, 0), used)
        return filled
