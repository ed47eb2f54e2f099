"""What the engine tells whoever asked: admitted, then deltas, then finished or failed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

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


class TokenLogprob(NamedTuple):
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


class Logprobs(NamedTuple):
    """How likely a token was by the model's own distribution, and the likeliest ones in its place."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


class Delta(NamedTuple):
    """More of an answer: text that became certain, and the tokens decoded.

    Attributes:
        choice: which of the request's answers.
        logprobs: one for each token, if the request wants them.
    """

    text: str
    token_ids: tuple[int, ...]
    choice: int = 0
    logprobs: tuple[Logprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """How one of a request's answers ended."""

    reason: FinishReason
    stop_match: str | None
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """All answers are complete. Nothing follows."""

    choices: tuple[ChoiceEnd, ...]
    usage: Usage
    timings: Timings


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
