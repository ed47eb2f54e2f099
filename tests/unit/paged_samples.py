"""Sequences in the paged cache of a model, as a scheduler would keep them: scattered blocks, a count."""

from __future__ import annotations

import numpy as np

from kernels.paged import KvDtype
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime
from llm_service.model.runner import ModelRunner


class Pages:
    """A fresh cache, whose blocks are given out in an order without order."""

    def __init__(
        self,
        runner: ModelRunner,
        tokens: int = 6000,
        block_size: int = 16,
        dtype: KvDtype = KvDtype.FLOAT32,
        seed: int = 0,
    ) -> None:
        self.runner = runner
        self.block_size = block_size
        blocks = -(-tokens // block_size)
        self._free = np.random.default_rng(seed).permutation(blocks).tolist()
        runner.open_cache(blocks, block_size, dtype)

    def sequence(self, capacity: int, regime: RopeRegime = RopeRegime.SHORT) -> PagedSequence:
        count = -(-capacity // self.block_size)
        blocks, self._free = self._free[:count], self._free[count:]
        assert len(blocks) == count, "the sample cache is too small"
        return PagedSequence(self.runner, blocks, regime)


class PagedSequence:
    """One sequence: its blocks, and how many of its tokens they hold."""

    def __init__(self, runner: ModelRunner, blocks: list[int], regime: RopeRegime) -> None:
        self.runner = runner
        self.blocks = blocks
        self.regime = regime
        self.computed = 0

    def next(self, ids: np.ndarray, *spans: VisualSpan, wanted: int = 1) -> Chunk:
        """The chunk of its next tokens, counted as computed."""
        chunk = Chunk(ids, spans, self.computed, self.blocks, self.regime, wanted)
        self.computed += len(ids)
        return chunk

    def last(self, ids: np.ndarray, *spans: VisualSpan) -> np.ndarray:
        """Compute its next tokens: logits of the last one, [1, vocab]."""
        return self.runner.forward([self.next(ids, *spans)])[0]

    def all(self, ids: np.ndarray, *spans: VisualSpan) -> np.ndarray:
        """Compute its next tokens: logits of each, [tokens, vocab]."""
        return self.runner.forward_all([self.next(ids, *spans)])[0]
