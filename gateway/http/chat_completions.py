"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.responses import JSONResponse, Response

from gateway.chats import Chats
from gateway.http.chat_request import ChatCompletionRequest, read_chat_request
from gateway.http.chat_response import Completion
from gateway.http.endpoint import Call
from gateway.http.media import MediaReader
from gateway.http.models import Models
from gateway.http.sse import Event, EventStream
from gateway.wire import RequestLimits


class ChatCompletions:
    """Turns whose history the client sends each time."""

    def __init__(self, chats: Chats, models: Models, media: MediaReader, limits: RequestLimits) -> None:
        self._chats = chats
        self._models = models
        self._media = media
        self._limits = limits

    async def create(self, call: Call) -> Response:
        """Answer, at once or in a stream."""
        asked = read_chat_request(call.json, self._limits)
        model = await self._models.check(asked.model, call.caller, call.deadline)
        with asked.names.translated():
            await self._media.store(asked.messages.media, call.caller)
        call.body_stored()
        completion = Completion(model, asked.logprobs, asked.include_usage)
        if asked.stream:
            return EventStream(self._stream(asked, completion, call))
        with asked.names.translated():
            request = asked.to_proto(call.request_id, call.idempotency_key)
            async with self._chats.chat(request, call.caller, call.deadline) as turn:
                return JSONResponse(await completion.whole(turn.events))

    async def _stream(
        self, asked: ChatCompletionRequest, completion: Completion, call: Call
    ) -> AsyncGenerator[Event]:
        with asked.names.translated():
            request = asked.to_proto(call.request_id, call.idempotency_key)
            async with self._chats.chat(request, call.caller, call.deadline) as turn:
                async for event in completion.chunks(turn.events):
                    yield event
