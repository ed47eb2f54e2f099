"""Prompt lookup on and off: what it gains where answers repeat what was said, and what it costs elsewhere.

What is compared is the time from the first token to the last, summed over the answers; the prompts are in the
cache on both sides. The workloads:

- lists: records about a picture as JSON, by a grammar. The form repeats, the values are the model's own.
- one record eight times, by a grammar: after the first everything is a repetition, so this is about the most
  that can be had.
- captions: short answers with nothing to copy from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from prometheus_client import REGISTRY

from benchmarks.engine.lists import exactly, record_list
from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig, Stream
from benchmarks.report import Row
from benchmarks.rounds import alternate
from llm_service.engine.request import SamplingParams
from llm_service.loading import LoadedModel

_SIDES = {"off": 0, "on": 8}
"""Most tokens guessed ahead in a step."""

_RECORDS = 6
_LONGEST = 400
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class _Workload:
    """Questions of one kind, asked so many at once."""

    asked: Sequence[Question]
    sampling: SamplingParams
    at_once: int
    what: str


class Speculation:
    """Two engines that differ in nothing but this."""

    def __init__(self, model: LoadedModel, writer: PromptWriter, captions: Sequence[Question]) -> None:
        self._rigs = {side: Rig(model, "--speculate", str(tokens)) for side, tokens in _SIDES.items()}
        self._model = model
        self._writer = writer
        self._captions = captions

    def rows(self) -> Iterator[Row]:
        """Measure everything."""
        sampling = self._writer.natural(_LONGEST)
        as_list = replace(sampling, grammar=record_list(self._model, _RECORDS))
        lists = _Workload(self._captions[:4], as_list, 1, "lists, one at a time")
        before = _drafts()
        yield self._speedup("speculation_speedup", lists)
        guessed, right = (after - earlier for after, earlier in zip(_drafts(), before, strict=True))
        yield Row("speculation_acceptance", right / guessed, "share", "guessed tokens, lists")
        several = _Workload(self._captions[:8], as_list, 8, "lists, eight at a time")
        yield self._speedup("speculation_speedup_8", several)
        yield self._speedup("speculation_speedup_ceiling", self._repetitions(lists))
        free = _Workload(self._captions, sampling, 1, "captions, one at a time")
        yield self._speedup("speculation_speedup_free", free)

    def _repetitions(self, lists: _Workload) -> _Workload:
        """The first record of the first list, again and again."""
        (answer,) = self._answer("off", replace(lists, asked=lists.asked[:1]))
        grammar = exactly(self._model, "\n".join([answer.text.splitlines()[0]] * 8))
        sampling = replace(lists.sampling, grammar=grammar)
        return replace(lists, sampling=sampling, what="one record eight times, one answer at a time")

    def _speedup(self, name: str, workload: _Workload) -> Row:
        for side in _SIDES:
            self._decode_s(side, workload)  # takes the prompts into both caches
        sides = {side: partial(self._decode_s, side, workload) for side in _SIDES}
        speedup = alternate(name, _ROUNDS, sides).ratio("off", "on")
        return Row(name, speedup, "x", f"no speculation; {workload.what}")

    def _decode_s(self, side: str, workload: _Workload) -> float:
        return sum(stream.decode_s for stream in self._answer(side, workload))

    def _answer(self, side: str, workload: _Workload) -> list[Stream]:
        requests = self._writer.requests(workload.asked, workload.sampling)
        return self._rigs[side].answer(requests, workload.at_once)


def _drafts() -> tuple[float, float]:
    """Tokens guessed so far, and how many of them were right, by the engine's metrics."""
    names = ("internvl_llm_draft_tokens_total", "internvl_llm_accepted_draft_tokens_total")
    guessed, right = (REGISTRY.get_sample_value(name) or 0.0 for name in names)
    return guessed, right
