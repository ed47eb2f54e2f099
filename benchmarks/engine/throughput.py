"""The same requests 1 to 32 at a time, against one by one; and how full the cache is meanwhile.

The mix: 32 conversations about 32 pictures of 7 tiles (112 visual tokens), each with a question of its own,
answers of 64 tokens, greedy. A conversation has four turns, so at any moment one request in four is about a
new picture, whose prompt is computed, and three go on with what is in the cache. Both sides of a comparison
begin in that state. What first turns alone and later turns alone give is reported beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count

from benchmarks.engine.meter import CacheMeter
from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig, Stream
from benchmarks.engine.visuals import Visual
from benchmarks.report import Row
from benchmarks.rounds import Rounds, alternate
from llm_service.engine.request import Request

STREAMS = (1, 2, 4, 8, 16, 32)
ANSWER = 64
TURNS = 4

_MOST = max(STREAMS)
_BASE = 0  # one by one once more: how far the ratio of 1 is from 1 tells how noisy the machine is
_ROUNDS = 3
_GOAL_RATIO, _GOAL_WASTE = 8, 0.04
_MIXED, _FIRST, _LATER = "", "_turn1", "_turn2"
_AGAINST = {
    _MIXED: "the same requests one by one",
    _FIRST: "the same one by one, new pictures only",
    _LATER: "the same one by one, later turns only",
}


class Mix:
    """The requests and the engine that answers them."""

    def __init__(self, rig: Rig, writer: PromptWriter, asked: Sequence[Question]) -> None:
        self._rig = rig
        self._writer = writer
        self._asked = asked
        self._scopes = (f"mix {number}" for number in count())

    def rows(self) -> Iterator[Row]:
        """Measure everything."""
        self._run(_MOST, _MIXED)  # first touch of memory and of every shape
        yield from self._ratios(_MIXED, STREAMS[:-1], rounds=1)
        for turns in (_MIXED, _FIRST, _LATER):
            yield from self._ratios(turns, (_MOST,), rounds=_ROUNDS)
        yield from self._cache_rows()

    def _ratios(self, turns: str, streams: Sequence[int], rounds: int) -> Iterator[Row]:
        sides = {at_once: partial(self._run, at_once or 1, turns) for at_once in (_BASE, *streams)}
        measured = alternate(f"throughput{turns}", rounds, sides)
        for at_once in streams:
            name, speedup = f"throughput_ratio_{at_once}{turns}", 1 / measured.ratio(at_once, _BASE)
            if at_once == _MOST and turns == _MIXED:
                goal = f"goal >= {_GOAL_RATIO}; {_AGAINST[turns]}"
                yield Row(name, speedup, "x", goal, speedup / _GOAL_RATIO)
            else:
                yield Row(name, speedup, "x", _AGAINST[turns])
            if at_once == _MOST:
                yield from self._speeds(measured, turns)

    def _speeds(self, measured: Rounds[int], turns: str) -> Iterator[Row]:
        for side, at_once in ((_BASE, 1), (_MOST, _MOST)):
            speed = len(self._asked) * ANSWER / measured.median(side)
            yield Row(f"tokens_per_s_{at_once}{turns}", speed, "tokens/s", f"{at_once} at a time")

    def _run(self, at_once: int, turns: str) -> float:
        """Seconds to answer the whole mix."""
        requests = self._requests(turns)
        began = time.perf_counter()
        self._rig.answer(requests, at_once)
        return time.perf_counter() - began

    def _requests(self, turns: str) -> list[tuple[Request, Visual]]:
        """The mix, under a salt of its own: no other run has left anything in the cache that helps.

        Turns before those of the mix are answered here, outside of what is timed.
        """
        scope = next(self._scopes)
        asked = list(self._asked)
        period = {_MIXED: TURNS, _FIRST: 1, _LATER: len(asked) + 1}[turns]
        begun = [number for number in range(len(asked)) if (number + 1) % period]
        first = self._writer.requests((asked[number] for number in begun), self._writer.natural(), scope)
        for number, answer in zip(begun, self._rig.answer(first, _MOST), strict=True):
            asked[number] = asked[number].then(answer.text, self._asked[number - 1].text)
        return self._writer.requests(asked, self._writer.exactly(ANSWER), scope)

    def _cache_rows(self) -> Iterator[Row]:
        meter = CacheMeter(self._rig.block_size)
        requests = self._requests(_MIXED)
        self._rig.runner.watch = meter.watch
        streams = self._rig.answer(requests, _MOST)
        self._rig.runner.watch = None
        goal = f"goal <= {_GOAL_WASTE}; all slots of the blocks that the mix holds, {_MOST} at a time"
        yield Row("kv_waste", meter.waste, "share", goal, meter.waste / _GOAL_WASTE)
        yield Row("prefix_hit_rate", _hit_rate(streams), "share", "all prompt tokens of the mix")


def _hit_rate(streams: Sequence[Stream]) -> float:
    usages = [stream.finished.usage for stream in streams if stream.finished]
    return sum(usage.cached_tokens for usage in usages) / sum(usage.prompt_tokens for usage in usages)
