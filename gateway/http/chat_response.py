"""The events of a turn as a chat completion, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.http.answer_text import FINISH_REASONS, logprob_items
from gateway.http.sse import Event
from internvl.errors import InternalError
from internvl.v1 import chat_service_pb2, llm_service_pb2

Events = AsyncIterator[chat_service_pb2.ChatResponse]

_DONE = Event("[DONE]")


@dataclass(frozen=True, slots=True)
class Completion:
    """What all pieces of one completion have in common."""

    model: str
    logprobs: bool = False
    include_usage: bool = False
    completion_id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self, events: Events) -> dict[str, Any]:
        """The completion, once all answers are there."""
        texts: list[str] = []
        logprobs: list[list[dict[str, Any]]] = []
        async for event in events:
            match event.WhichOneof("event"):
                case "delta":
                    while len(texts) <= event.delta.choice:
                        texts.append("")
                        logprobs.append([])
                    texts[event.delta.choice] += event.delta.text
                    logprobs[event.delta.choice] += logprob_items(event.delta.logprobs)
                case "result":
                    result = event.result
                    ends = result.choices
                    choices = [
                        self._choice(
                            number,
                            texts[number] if number < len(texts) else "",
                            logprobs[number] if number < len(logprobs) else [],
                            end,
                        )
                        for number, end in enumerate(ends)
                    ]
                    return self._object("chat.completion", choices) | {"usage": usage(result.usage)}
        raise InternalError("the turn ended without a result")

    async def chunks(self, events: Events) -> AsyncGenerator[Event]:
        """The completion while it comes to be."""
        announced: set[int] = set()
        async for event in events:
            match event.WhichOneof("event"):
                case "started":
                    announced.add(0)
                    yield self._opening(0)
                case "delta":
                    number = event.delta.choice
                    if number not in announced:
                        announced.add(number)
                        yield self._opening(number)
                    items = logprob_items(event.delta.logprobs) if self.logprobs else None
                    if event.delta.text or items:
                        yield self._chunk(number, {"content": event.delta.text}, logprobs=items)
                case "result":
                    for number, end in enumerate(event.result.choices):
                        if number not in announced:
                            yield self._opening(number)
                        yield self._chunk(number, {}, finish=FINISH_REASONS.get(end.finish_reason, "stop"))
                    if self.include_usage:
                        counted = usage(event.result.usage)
                        yield Event(self._object("chat.completion.chunk", []) | {"usage": counted})
        yield _DONE

    def _opening(self, number: int) -> Event:
        return self._chunk(number, {"role": "assistant", "content": "", "refusal": None})

    def _chunk(
        self,
        number: int,
        delta: dict[str, Any],
        *,
        logprobs: list[dict[str, Any]] | None = None,
        finish: str | None = None,
    ) -> Event:
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": _logprobs(logprobs),
            "finish_reason": finish,
        }
        chunk = self._object("chat.completion.chunk", [choice])
        return Event(chunk | {"usage": None} if self.include_usage else chunk)

    def _choice(
        self, number: int, text: str, logprobs: list[dict[str, Any]], end: llm_service_pb2.ChoiceResult
    ) -> dict[str, Any]:
        return {
            "index": number,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": _logprobs(logprobs if self.logprobs else None),
            "finish_reason": FINISH_REASONS.get(end.finish_reason, "stop"),
        }

    def _object(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
        }


def usage(counted: llm_service_pb2.Usage) -> dict[str, Any]:
    """What was counted. `visual_tokens` is an extension: OpenAI counts pictures among the prompt, too."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": counted.cached_tokens,
            "visual_tokens": counted.visual_tokens,
        },
    }


def _logprobs(items: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if items is None else {"content": items, "refusal": None}
