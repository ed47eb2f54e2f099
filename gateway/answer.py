"""What happens in a turn, as plain values: from `Started` over `Progress` and `Delta` to the `Answer`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.content import Layout
from internvl.v1 import llm_service_pb2


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
class ChoiceEnd:
    """How one of several answers to a prompt ended; `stop_match` is the stop text that did it, if one did."""

    finish_reason: FinishReason
    stop_match: str | None
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the language tier ended an answer.

    Attributes:
        finish_reason: of the first answer.
        choices: how each of the answers ended, in order.
        replay_bundle: what the client may replay the request from, if it asked for that.
    """

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    choices: tuple[ChoiceEnd, ...] = ()
    replay_bundle: bytes | None = None


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
    """More of an answer.

    Attributes:
        text: what became certain.
        choice: which of several answers, from 0.
        message: all of it, in the language tier's own message; the public answer carries it on unread.
    """

    text: str
    choice: int
    message: llm_service_pb2.TokenDelta


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a turn.

    Attributes:
        text: all of it; of several answers, the first.
        outcome: how it ended and what it took.
        first_text_s: from the arrival of the request to the first text, in seconds.
    """

    text: str
    outcome: Outcome
    first_text_s: float


Event = Started | Progress | Delta
