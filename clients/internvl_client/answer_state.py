"""An answer while it comes: what is known of it so far. Written once for both clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from internvl.v1 import chat_service_pb2, llm_service_pb2
from internvl_client.answer import (
    Answer,
    Choice,
    Delta,
    Event,
    FinishReason,
    Progress,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from internvl_client.errors import Cancelled, InternVLError, ServerError
from internvl_client.responses import (
    read_delta,
    read_finish_reason,
    read_started,
    read_timings,
    read_usage,
)


class AnswerState:
    """What is known of an answer so far; both kinds of stream are one."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._drafts = [_ChoiceDraft()]
        self._answer: Answer | None = None
        self._cancelled = False

    @property
    def text(self) -> str:
        """The text so far; of several answers, that of the first."""
        return "".join(self._drafts[0].texts)

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
                self._started = read_started(response.started)
                return self._started
            case "encoding":
                progress = response.encoding
                return Progress(progress.visual_index, progress.tiles_done, progress.tiles_total)
            case "delta":
                delta = read_delta(response.delta)
                while len(self._drafts) <= delta.choice:
                    self._drafts.append(_ChoiceDraft())
                self._drafts[delta.choice].add(delta)
                return delta
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
        # The message is the first answer whole, also for a stream that was joined late.
        self._drafts[0].texts = ["".join(part.text for part in result.message.parts)]
        ends = list(result.choices) or [llm_service_pb2.ChoiceResult(finish_reason=result.finish_reason)]
        self._drafts += [_ChoiceDraft() for _ in ends[len(self._drafts) :]]
        return Answer(
            choices=tuple(draft.ended(end) for draft, end in zip(self._drafts, ends, strict=False)),
            usage=read_usage(result.usage),
            timings=read_timings(result),
            conversation_version=result.conversation_version
            if result.HasField("conversation_version")
            else None,
            replay_bundle=result.replay_bundle if result.HasField("replay_bundle") else None,
        )


@dataclass(slots=True)
class _ChoiceDraft:
    """What is known of one answer so far."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)

    def ended(self, end: llm_service_pb2.ChoiceResult) -> Choice:
        return Choice(
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            finish_reason=read_finish_reason(end.finish_reason),
            stop_match=end.stop_match if end.HasField("stop_match") else None,
            logprobs=tuple(self.logprobs),
        )
