"""What the engine tells whoever asked: admitted, then deltas, then finished or failed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from internvl.errors import DeadlineExceeded, Overloaded, ServingError
from llm_service.engine.request import VisualNeed


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = auto()
    """The model ended it, or a stop id or stop text was met."""
    LENGTH = auto()
    """It has `max_tokens` tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of one request in seconds; see the proto's Timings for where each begins and ends."""

    queue_s: float
    prefill_s: float
    decode_s: float
    tile_wait_s: float


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request holds a running place; the embeddings it needs are to be sent now."""

    cached_tokens: int
    needed: tuple[VisualNeed, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer: text that became certain, and the tokens decoded."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete. Nothing follows."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop_match: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended with an error. Nothing follows."""

    error: ServingError


Event: TypeAlias = Admitted | Delta | Finished | Failed


class TileTimeout(DeadlineExceeded):
    """A tile that a request waits for did not come."""

    reason = "TILE_TIMEOUT"


class SlowReader(Overloaded):
    """The caller does not read its answer, and the room to keep it is full."""

    reason = "SLOW_READER"
