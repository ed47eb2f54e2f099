"""How far a turn in the background has come, and what a question of a batch came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import grpc

from internvl.v1 import chat_service_pb2
from internvl_client.answer import Answer, Progress
from internvl_client.answer_state import AnswerState
from internvl_client.errors import ERROR_OF_STATUS, InternVLError, ServerError, kind_of_reason
from internvl_client.options import ChatOptions, check_names

State: TypeAlias = Literal["running", "done", "failed", "cancelled"]
BatchProgress = Callable[[int, int], None]

_STATES: dict[int, State] = {
    chat_service_pb2.TURN_STATE_RUNNING: "running",
    chat_service_pb2.TURN_STATE_DONE: "done",
    chat_service_pb2.TURN_STATE_FAILED: "failed",
    chat_service_pb2.TURN_STATE_CANCELLED: "cancelled",
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class TurnStatus:
    """How far a turn has come.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        text: of the first answer, so far.
        progress: how far the encoding of each new picture or film has come.
        answer: once it is done; without tokens and log-probabilities, which its stream tells.
        error: why it failed, if it did.
    """

    state: State
    text: str
    progress: tuple[Progress, ...]
    answer: Answer | None
    error: InternVLError | None


class Question:
    """A question of a batch, with all that `chat` takes beside it."""

    def __init__(self, text: str | None = None, options: ChatOptions | None = None) -> None:
        """As the arguments of `chat`.

        Raises:
            TypeError: an option that does not exist.
        """
        self.text = text
        self.options: ChatOptions = options or {}
        check_names(self.options, ChatOptions)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a question of a batch came to.

    Attributes:
        index: number of the question, from 0.
        answer: its answer, without tokens and log-probabilities; None if it failed.
        error: why it failed, if it did.
    """

    index: int
    answer: Answer | None
    error: InternVLError | None


def read_status(response: chat_service_pb2.GetTurnResponse) -> TurnStatus:
    """The state of a turn."""
    return TurnStatus(
        state=_STATES.get(response.state, "running"),
        text=response.text,
        progress=tuple(
            Progress(each.visual_index, each.tiles_done, each.tiles_total) for each in response.encoding
        ),
        answer=read_answer(response.result) if response.HasField("result") else None,
        error=read_failure(response.error) if response.HasField("error") else None,
    )


def read_batch(response: chat_service_pb2.BatchChatResponse) -> BatchResult:
    """One result of a batch."""
    if response.HasField("error"):
        return BatchResult(response.index, None, read_failure(response.error))
    return BatchResult(response.index, read_answer(response.result), None)


def read_answer(result: chat_service_pb2.ChatResult) -> Answer:
    """An answer of which only the result is known."""
    state = AnswerState()
    state._add(chat_service_pb2.ChatResponse(result=result))
    return state._finished()


def read_failure(failure: chat_service_pb2.Failure) -> InternVLError:
    """The error that a call of its own would have failed with."""
    code = _CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
    delay = failure.retry_delay.ToMilliseconds() / 1000 if failure.HasField("retry_delay") else None
    kind = kind_of_reason(ERROR_OF_STATUS.get(code, ServerError), failure.reason)
    return kind(
        failure.message,
        reason=failure.reason,
        field=failure.field,
        retry_after_s=delay,
        metadata=dict(failure.metadata),
    )
