"""Time to the first token of a second turn over that of the first, which has to take the picture in.

Here for the engine alone, with a picture of the released size: 13 tiles of 256 visual tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tqdm import tqdm

from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig, Stream
from benchmarks.engine.visuals import random_visual
from benchmarks.report import Row
from llm_service.engine.request import SamplingParams

TILES, TOKENS_PER_TILE = 13, 256

GOAL = 0.15
_PICTURES = 5
_ANSWER = 24


class EngineTurns:
    """Conversations of two turns, one after another, each about a picture of its own."""

    def __init__(self, rig: Rig, writer: PromptWriter, asked: Sequence[Question]) -> None:
        self._rig = rig
        self._writer = writer
        self._asked = asked

    def rows(self) -> Iterator[Row]:
        """Measure everything."""
        self._conversation(0)  # first touch of memory
        numbers = tqdm(range(1, 1 + _PICTURES), desc="large pictures", unit="picture", leave=False)
        times = [self._conversation(number) for number in numbers]
        first, second = (statistics.median(each) for each in zip(*times, strict=True))
        share = statistics.median(later / sooner for sooner, later in times)
        size = f"{TILES * TOKENS_PER_TILE:,} visual tokens, engine alone"
        goal = f"goal <= {GOAL}; first turn, {size}"
        yield Row("ttft_turn2_over_turn1_engine", share, "x", goal, share / GOAL)
        yield Row("ttft_turn1_engine_ms", 1e3 * first, "ms", size)
        yield Row("ttft_turn2_engine_ms", 1e3 * second, "ms", size)
        yield Row("prefill_tokens_per_s", TILES * TOKENS_PER_TILE / first, "tokens/s", f"first turn, {size}")

    def _conversation(self, number: int) -> tuple[float, float]:
        """Seconds to the first token of both turns."""
        like = self._asked[0].visual
        visual = random_visual(f"large picture {number}", like, TILES, TOKENS_PER_TILE)
        question = replace(self._asked[number], visual=visual)
        first = self._answer(question, self._writer.exactly(_ANSWER))
        then = question.then(first.text, self._asked[number + 1].text)
        second = self._answer(then, self._writer.exactly(_ANSWER))
        return first.first_token_s, second.first_token_s

    def _answer(self, question: Question, sampling: SamplingParams) -> Stream:
        stream = self._rig.submit(self._writer.request(question, sampling), question.visual)
        self._rig.finish(stream)
        return stream
