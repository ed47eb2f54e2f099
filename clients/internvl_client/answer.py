"""What comes back: events as they happen, and the answer they add up to. Written once for both clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2
from internvl_client.errors import Cancelled, InternVLError, ServerError

FinishReason: TypeAlias = Literal["stop", "length", "other"]

_FINISH_REASONS: dict[int, FinishReason] = {
    llm_service_pb2.FINISH_REASON_STOP: "stop",
    llm_service_pb2.FINISH_REASON_LENGTH: "length",
}


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
        fits: whether there is room for at least one token of answer.
    """

    layouts: tuple[Layout, ...]
    visual_tokens: int
    prompt_tokens: int
    context_limit: int
    fits: bool


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
class Delta:
    """More of the answer. `text` may be empty while a character is incomplete."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer.

    Attributes:
        text: all of it.
        token_ids: its tokens.
        finish_reason: `stop` if the model ended it, `length` if a limit did, `other` if only a newer client
            would know.
        usage: what was counted.
        timings: how long it took.
        conversation_version: version of the conversation after this turn; None without a conversation.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    conversation_version: int | None


Event: TypeAlias = Started | Progress | Delta | Answer


class AnswerState:
    """What is known of an answer so far; both kinds of stream are one."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._answer: Answer | None = None
        self._cancelled = False

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def started(self) -> Started | None:
        """Request id, token counts and layouts; None until the turn is under way."""
        return self._started

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; None while it has not."""
        return None if self._answer is None else self._answer.finish_reason

    @property
    def usage(self) -> Usage | None:
        """What was counted; None while the answer is not complete."""
        return None if self._answer is None else self._answer.usage

    @property
    def timings(self) -> Timings | None:
        """How long it took; None while the answer is not complete."""
        return None if self._answer is None else self._answer.timings

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called before the answer was complete."""
        return self._cancelled

    def _note_cancel(self) -> None:
        if self._answer is None:
            self._cancelled = True

    @contextmanager
    def _ending_quietly(self) -> Iterator[None]:
        """What the transport says about a cancelled answer is no news to the one who cancelled it."""
        try:
            yield
        except InternVLError:
            if not self._cancelled:
                raise

    def _add(self, response: chat_service_pb2.ChatResponse) -> Event | None:
        """Take in one event of the server; None for a kind that this client does not know."""
        match response.WhichOneof("event"):
            case "started":
                self._started = _read_started(response.started)
                return self._started
            case "encoding":
                progress = response.encoding
                return Progress(progress.visual_index, progress.tiles_done, progress.tiles_total)
            case "delta":
                self._texts.append(response.delta.text)
                self._token_ids.extend(response.delta.token_ids)
                return Delta(response.delta.text, tuple(response.delta.token_ids))
            case "result":
                self._answer = self._read_result(response.result)
                return self._answer
            case _:
                return None

    def _finished(self) -> Answer:
        """The answer after the last event.

        Raises:
            Cancelled: the caller cancelled it.
            ServerError: the stream ended without one.
        """
        if self._answer is not None:
            return self._answer
        if self._cancelled:
            raise Cancelled("the answer was cancelled before it was complete")
        raise ServerError("the server ended the stream without a result")

    def _read_result(self, result: chat_service_pb2.ChatResult) -> Answer:
        text = "".join(part.text for part in result.message.parts)
        self._texts = [text]
        return Answer(
            text=text,
            token_ids=tuple(self._token_ids),
            finish_reason=_FINISH_REASONS.get(result.finish_reason, "other"),
            usage=_read_usage(result.usage),
            timings=_read_timings(result),
            conversation_version=result.conversation_version
            if result.HasField("conversation_version")
            else None,
        )


def read_plan(plan: chat_service_pb2.PlanTurnResponse) -> Plan:
    """A plan in the client's own form."""
    return Plan(
        layouts=_read_layouts(plan.layouts),
        visual_tokens=plan.visual_tokens,
        prompt_tokens=plan.prompt_tokens,
        context_limit=plan.context_limit,
        fits=plan.fits,
    )


def _read_started(started: chat_service_pb2.ChatStarted) -> Started:
    layouts = _read_layouts(started.layouts)
    return Started(started.request_id, started.prompt_tokens, started.cached_tokens, layouts)


def _read_layouts(layouts: Iterable[content_pb2.VisualLayout]) -> tuple[Layout, ...]:
    return tuple(
        Layout(
            kind="video" if layout.kind == content_pb2.MEDIA_KIND_VIDEO else "image",
            grids=tuple(Grid(grid.columns, grid.rows, grid.thumbnail) for grid in layout.grids),
            tiles=layout.tiles,
            visual_tokens=layout.tiles * layout.tokens_per_tile,
        )
        for layout in layouts
    )


def _read_usage(usage: llm_service_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        visual_tokens=usage.visual_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _read_timings(result: chat_service_pb2.ChatResult) -> Timings:
    timings = result.timings
    return Timings(
        first_token_ms=result.time_to_first_token_ms,
        queue_ms=timings.queue_ms,
        prefill_ms=timings.prefill_ms,
        decode_ms=timings.decode_ms,
        tile_wait_ms=timings.tile_wait_ms,
    )
