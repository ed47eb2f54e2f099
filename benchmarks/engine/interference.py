"""Answers that go on while long prompts arrive without a pause.

Eight answers decode. Beside them one prompt of 2,000 tokens after another is computed, each about a picture
that nobody has seen before; the next one is there before the step after its predecessor's last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig, Stream
from benchmarks.engine.visuals import Visual, random_visual
from benchmarks.report import Row
from llm_service.engine.request import Request

STREAMS = 8
PROMPT = 2000

_NEWCOMERS = 12
_QUIET_STEPS = 300
_LONGEST = 6000  # tokens of the answers, more than they ever get to
_GOAL = 3


class Interference:
    """Looks at the gaps between the tokens of the answers that go on."""

    def __init__(self, rig: Rig, writer: PromptWriter, asked: Sequence[Question]) -> None:
        self._rig = rig
        self._writer = writer
        self._asked = asked

    def rows(self) -> Iterator[Row]:
        """Measure everything."""
        newcomers = self._newcomers()
        sampling = self._writer.exactly(_LONGEST)
        running = self._rig.start(self._writer.requests(self._asked[:STREAMS], sampling))
        quiet = _percentiles(running, self._decode_alone)
        began = time.perf_counter()
        busy = _percentiles(running, lambda: self._rig.answer(newcomers, at_once=1))
        seconds = time.perf_counter() - began
        self._rig.cancel(*running)
        tokens = sum(request.prompt_tokens for request, _ in newcomers)
        stretch = busy.p99 / busy.p50
        beside = f"{STREAMS} answers go on beside prompts of {PROMPT:,} tokens"
        yield Row("itl_p99_over_p50", stretch, "x", f"goal <= {_GOAL}; {beside}", stretch / _GOAL)
        yield Row("itl_p50_ms", busy.p50, "ms", beside)
        yield Row("itl_p99_ms", busy.p99, "ms", beside)
        yield Row("itl_p50_quiet_ms", quiet.p50, "ms", "the same answers with nothing beside them")
        against = "itl_p50_quiet_ms"
        yield Row("itl_p99_over_quiet_p50", busy.p99 / quiet.p50, "x", against)
        yield Row("prefill_tokens_per_s_beside", tokens / seconds, "tokens/s", beside)

    def _newcomers(self) -> list[tuple[Request, Visual]]:
        """Made before anything is timed. Their pictures are random numbers, as many tiles as it takes."""
        question = self._asked[0]
        tile = question.visual.tokens_per_tile
        text = self._writer.request(question, self._writer.exactly(1)).prompt_tokens - question.visual.tokens
        tiles = (PROMPT - text) // tile
        visuals = [
            random_visual(f"newcomer {number}", question.visual, tiles, tile) for number in range(_NEWCOMERS)
        ]
        return self._writer.requests(
            (replace(question, visual=each) for each in visuals), self._writer.exactly(1)
        )

    def _decode_alone(self) -> None:
        for _ in range(_QUIET_STEPS):
            self._rig.step()


class Percentiles(NamedTuple):
    """Of the gaps between tokens, in milliseconds."""

    p50: float
    p99: float


def _percentiles(streams: Sequence[Stream], work: Callable[[], object]) -> Percentiles:
    """Those of the tokens that come while `work` runs."""
    seen = [len(stream.arrivals) for stream in streams]
    work()
    gaps = [
        1e3 * (later - sooner)
        for stream, first in zip(streams, seen, strict=True)
        for sooner, later in pairwise(stream.arrivals[first:])
    ]
    return Percentiles(*np.percentile(gaps, (50, 99)).tolist())
