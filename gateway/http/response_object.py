"""Responses as JSON, whole or in events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.http.answer_text import logprob_items
from gateway.http.errors import error_body
from gateway.http.sse import Event
from internvl.errors import InternalError, ServingError
from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2

Events = AsyncIterator[chat_service_pb2.ChatResponse]

COMPLETED, INCOMPLETE, IN_PROGRESS, FAILED, CANCELLED = (
    "completed",
    "incomplete",
    "in_progress",
    "failed",
    "cancelled",
)
_MAX_TOKENS = {"reason": "max_output_tokens"}


@dataclass(slots=True)
class ResponseObject:
    """One response, as far as it has come.

    Attributes:
        response_id: its id.
        model: whose answer.
        previous: the response that it goes on behind.
        echo: fields of the request that it repeats.
        created: when, in seconds since 1970.
        status: how far it has come.
        text: its answer so far; None before there is one.
        logprobs: of the answer's tokens, if asked for.
        usage: what was counted.
        error: why it failed.
    """

    response_id: str
    model: str
    previous: str | None = None
    echo: Mapping[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=lambda: float(int(time.time())))
    status: str = IN_PROGRESS
    background: bool = False
    store: bool = True
    text: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    usage: llm_service_pb2.Usage | None = None
    error: Mapping[str, Any] | None = None

    @property
    def answered(self) -> bool:
        """Whether its answer is there, and stored."""
        return self.status in (COMPLETED, INCOMPLETE)

    def to_json(self) -> dict[str, Any]:
        """The response as it is now."""
        echo = {name: value for name, value in self.echo.items() if value is not None}
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": self.background,
            "error": self.error,
            "incomplete_details": _MAX_TOKENS if self.status == INCOMPLETE else None,
            "instructions": None,
            "metadata": {},
            "model": self.model,
            "output": [] if self.text is None else [self.message()],
            "parallel_tool_calls": False,
            "previous_response_id": self.previous,
            "store": self.store,
            "tool_choice": "none",
            "tools": [],
            "temperature": None,
            "top_p": None,
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "usage": None if self.usage is None else _usage(self.usage),
            **echo,
        }

    def message(self) -> dict[str, Any]:
        """The answer as an output item."""
        running = self.status == IN_PROGRESS
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": IN_PROGRESS if running else COMPLETED if self.status == COMPLETED else INCOMPLETE,
            "content": [] if running and not self.text else [self.part()],
        }

    def part(self) -> dict[str, Any]:
        """The text of the answer as a part."""
        return {"type": "output_text", "text": self.text or "", "annotations": [], "logprobs": self.logprobs}

    @property
    def message_id(self) -> str:
        """Id of the output item."""
        return f"msg_{self.response_id.removeprefix('resp_')}"

    def add(self, delta: llm_service_pb2.TokenDelta) -> list[dict[str, Any]]:
        """Append more of the answer, and return its log-probabilities."""
        items = logprob_items(delta.logprobs)
        self.text = (self.text or "") + delta.text
        self.logprobs += items
        return items

    def finish(self, result: chat_service_pb2.ChatResult) -> None:
        """Take over how it ended."""
        self.text = "".join(part.text for part in result.message.parts)
        length = result.finish_reason == llm_service_pb2.FINISH_REASON_LENGTH
        self.status = INCOMPLETE if length else COMPLETED
        self.usage = result.usage

    def fail(self, error: ServingError) -> None:
        """Take over why it failed."""
        said = error_body(error)["error"]
        code = "rate_limit_exceeded" if said["type"] == "rate_limit_error" else "server_error"
        code = "invalid_prompt" if said["type"] == "invalid_request_error" else code
        self.status = FAILED
        self.error = {"code": code, "message": said["message"]}

    async def whole(self, events: Events) -> dict[str, Any]:
        """The response, once the answer is there."""
        async for event in events:
            match event.WhichOneof("event"):
                case "delta":
                    self.add(event.delta)
                case "result":
                    self.finish(event.result)
                    return self.to_json()
        raise InternalError("the turn ended without a result")


class ResponseEvents:
    """The events of one response, numbered."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = -1

    @property
    def response(self) -> ResponseObject:
        """The response, as far as it has come."""
        return self._response

    @property
    def begun(self) -> bool:
        """Whether the client was told anything, such as its id."""
        return self._number >= 0

    async def stream(self, events: Events) -> AsyncGenerator[Event]:
        """Everything that happens, from `response.created` to `response.completed`."""
        response = self._response
        async for event in events:
            match event.WhichOneof("event"):
                case "started":
                    for opening in self._opening():
                        yield opening
                case "delta" if event.delta.choice == 0:
                    items = response.add(event.delta)
                    if event.delta.text or items:
                        delta = {"delta": event.delta.text, "logprobs": items}
                        yield self._of_part("response.output_text.delta", delta)
                case "result":
                    response.finish(event.result)
                    for closing in self._closing():
                        yield closing

    def failed(self, error: ServingError) -> Event:
        """The last event of a response that fails on the way."""
        self._response.fail(error)
        return self._event("response.failed", {"response": self._response.to_json()})

    def _opening(self) -> Sequence[Event]:
        response = self._response
        created = [
            self._event(name, {"response": response.to_json()})
            for name in ("response.created", "response.in_progress")
        ]
        item = self._event("response.output_item.added", {"output_index": 0, "item": response.message()})
        return [*created, item, self._of_part("response.content_part.added", {"part": response.part()})]

    def _closing(self) -> Sequence[Event]:
        response = self._response
        text = {"text": response.text, "logprobs": response.logprobs}
        return [
            self._of_part("response.output_text.done", text),
            self._of_part("response.content_part.done", {"part": response.part()}),
            self._event("response.output_item.done", {"output_index": 0, "item": response.message()}),
            self._event(f"response.{response.status}", {"response": response.to_json()}),
        ]

    def _of_part(self, name: str, members: Mapping[str, Any]) -> Event:
        place = {"item_id": self._response.message_id, "output_index": 0, "content_index": 0}
        return self._event(name, {**place, **members})

    def _event(self, name: str, members: Mapping[str, Any]) -> Event:
        self._number += 1
        return Event({"type": name, "sequence_number": self._number, **members}, name)


def input_items(messages: Sequence[content_pb2.Message], response_id: str) -> list[dict[str, Any]]:
    """What a response was asked, as items; media by the id of its content."""
    return [
        {
            "id": f"msg_{response_id.removeprefix('resp_')}_{number}",
            "type": "message",
            "status": COMPLETED,
            "role": _ROLES.get(message.role, "user"),
            "content": [_input_part(part, message.role) for part in message.parts],
        }
        for number, message in enumerate(messages)
    ]


_ROLES = {
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
}


def _input_part(part: content_pb2.Part, role: content_pb2.Role.ValueType) -> dict[str, Any]:
    match part.WhichOneof("content"):
        case "image":
            return {
                "type": "input_image",
                "detail": "auto",
                "file_id": part.image.source.media_id,
                "image_url": None,
            }
        case "video":
            return {"type": "input_file", "file_id": part.video.source.media_id}
        case _ if role == content_pb2.ROLE_ASSISTANT:
            return {"type": "output_text", "text": part.text, "annotations": []}
        case _:
            return {"type": "input_text", "text": part.text}


def _usage(counted: llm_service_pb2.Usage) -> dict[str, Any]:
    return {
        "input_tokens": counted.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": counted.cached_tokens,
            "cache_write_tokens": 0,
            "visual_tokens": counted.visual_tokens,
        },
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
    }
