"""What comes back, as plain values: events as they happen, and the answer they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "other"]


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiles of one picture or frame; `thumbnail` tells whether a view of the whole follows them."""

    columns: int
    rows: int
    thumbnail: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """How one picture or film became visual tokens.

    Attributes:
        kind: `image` or `video`.
        grids: one for a picture, one for each sampled frame of a film.
        tiles: tiles of all grids, thumbnails included.
        visual_tokens: tokens of all tiles.
    """

    kind: Literal["image", "video"]
    grids: tuple[Grid, ...]
    tiles: int
    visual_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer. `prompt_tokens` includes visual and cached ones."""

    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of one answer in milliseconds, as the server measured them.

    Attributes:
        first_token_ms: from the arrival of the request to the first text.
        queue_ms: until prefill began.
        prefill_ms: from there to the first token.
        decode_ms: from the first token to the last.
        tile_wait_ms: part of `prefill_ms` spent waiting for pictures to be encoded.
    """

    first_token_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    tile_wait_ms: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a turn would cost.

    Attributes:
        layouts: one for each picture and film, in order.
        visual_tokens: tokens of all of them.
        prompt_tokens: tokens of the whole prompt.
        context_limit: most tokens of prompt and answer together.
        fits: whether there is room for prompt and answer, in context and cache.
        cached_tokens: prompt tokens that cost next to nothing, because they are cached.
        tiles: tiles of all pictures and films.
        tiles_to_encode: how many of them would have to be encoded.
        kv_bytes: memory of keys and values of prompt and answer.
        kv_budget_bytes: memory of the whole cache.
        expected_wait_ms: before the model begins.
    """

    layouts: tuple[Layout, ...]
    visual_tokens: int
    prompt_tokens: int
    context_limit: int
    fits: bool
    cached_tokens: int = 0
    tiles: int = 0
    tiles_to_encode: int = 0
    kv_bytes: int = 0
    kv_budget_bytes: int = 0
    expected_wait_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """The turn is under way. `request_id` names it in the server's logs."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """So many tiles of a new picture are encoded. `visual_index` counts the prompt's visuals from 0."""

    visual_index: int
    tiles_done: int
    tiles_total: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was by the model's own distribution.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability.
        token: its own bytes: UTF-8, or a part of a character; empty for a control token.
        top: the likeliest tokens in its place, likeliest first, without their own alternatives.
    """

    token_id: int
    logprob: float
    token: bytes
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer.

    Attributes:
        text: what became certain; may be empty while a character is incomplete.
        token_ids: the tokens behind it.
        choice: which of the `n` answers, from 0.
        logprobs: one for each token, if asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers to a question.

    Attributes:
        text: all of it.
        token_ids: its tokens.
        finish_reason: `stop` if the model ended it, `length` if a limit did, `other` if only a newer client
            would know.
        stop_match: the text of `stop` that ended it, if one did.
        logprobs: one for each token, if asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_match: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. Of several, `text` and what goes with it are those of the first.

    Attributes:
        choices: all answers; the first is also told by the properties.
        usage: what was counted, for all of them.
        timings: how long it took.
        conversation_version: version of the conversation after this turn; None without a conversation.
        replay_bundle: the content of a file for `internvl replay`, if asked for.
    """

    choices: tuple[Choice, ...]
    usage: Usage
    timings: Timings
    conversation_version: int | None
    replay_bundle: bytes | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Its tokens."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """One for each token, if asked for."""
        return self.choices[0].logprobs


Event: TypeAlias = Started | Progress | Delta | Answer
