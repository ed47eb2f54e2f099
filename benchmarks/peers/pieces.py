"""The pieces of work, and what is read off the arrival times of their answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.peers.orders import Arrivals, Order, PictureOrder, TextOrder

Measure: TypeAlias = Callable[[Arrivals], float]

PROMPT, ANSWER = 512, 64

KV_BUDGET_GIB = 2
"""Of this project's services and of vLLM. In bfloat16 it holds 5,400 tokens: eight streams of 512 and 64, or
four conversations about a picture."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Work that is given to an engine as a whole.

    Attributes:
        order: what is asked, but for its seed.
        part: what `--only` calls it.
    """

    name: str
    part: str
    order: Order


PIECES = {
    piece.name: piece
    for piece in (
        Piece("text", "decode", TextOrder(streams=1, prompt_tokens=PROMPT, answer_tokens=ANSWER)),
        Piece("image", "image", PictureOrder(side=896, answer_tokens=8)),
        Piece("streams_8", "streams", TextOrder(streams=8, prompt_tokens=32, answer_tokens=ANSWER)),
        Piece("streams_4", "streams", TextOrder(streams=4, prompt_tokens=32, answer_tokens=ANSWER)),
        Piece("serve_8", "serve", TextOrder(streams=8, prompt_tokens=PROMPT, answer_tokens=ANSWER)),
    )
}

PARTS = ("decode", "image", "streams", "serve")


def first_s(arrivals: Arrivals) -> float:
    """Time to the first token of the first request, in seconds."""
    return arrivals[0][0]


def second_s(arrivals: Arrivals) -> float:
    """Of the second request."""
    return arrivals[1][0]


def third_s(arrivals: Arrivals) -> float:
    """Of the third request."""
    return arrivals[2][0]


def token_ms(arrivals: Arrivals) -> float:
    """Milliseconds between two tokens of the first request, mean."""
    times = arrivals[0]
    return 1e3 * (times[-1] - times[0]) / (len(times) - 1)


def decode_rate(arrivals: Arrivals) -> float:
    """Tokens a second of all requests together, in the time in which all of them were being written."""
    begins = max(times[0] for times in arrivals)
    ends = min(times[-1] for times in arrivals)
    tokens = sum(begins < time <= ends for times in arrivals for time in times)
    return tokens / (ends - begins) if ends > begins else float("nan")


def serve_rate(arrivals: Arrivals) -> float:
    """Tokens a second of all requests together, from the first question to the last token."""
    return sum(map(len, arrivals)) / max(times[-1] for times in arrivals)


def median_of(measure: Measure, samples: list[Arrivals]) -> float:
    """The median of a measure over all rounds."""
    return statistics.median(map(measure, samples))


def pieces_of(parts: tuple[str, ...], done: Mapping[str, int], rounds: int) -> list[Piece]:
    """The pieces of these parts that have been run fewer than `rounds` times."""
    return [piece for piece in PIECES.values() if piece.part in parts and done.get(piece.name, 0) < rounds]
