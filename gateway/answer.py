"""What happens in a turn, as plain values: from `Started` over `Progress` and `Delta` to the `Answer`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.content import Layout


class FinishReason(enum.Enum):
    """Why an answer ended: the model or a stop text did it, or a limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `prompt_tokens` includes visual and cached ones."""

    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of the language tier, in milliseconds; `tile_wait_ms` is a part of `prefill_ms`."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    tile_wait_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the language tier ended an answer."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Started:
    """The language tier took the request."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One more tile of a new picture is on its way to the language tier."""

    visual_index: int
    tiles_done: int
    tiles_total: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a turn.

    Attributes:
        text: all of it.
        outcome: how it ended and what it took.
        first_text_s: from the arrival of the request to the first text, in seconds.
    """

    text: str
    outcome: Outcome
    first_text_s: float


Event = Started | Progress | Delta
