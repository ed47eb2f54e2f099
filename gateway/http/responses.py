"""`/v1/responses`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.responses import JSONResponse, Response

from gateway.chats import Chats
from gateway.http.endpoint import Call
from gateway.http.errors import UnsupportedField
from gateway.http.media import MediaReader
from gateway.http.models import Models
from gateway.http.response_archive import ResponseArchive, ResponseId
from gateway.http.response_object import ResponseEvents, ResponseObject, input_items
from gateway.http.response_request import ResponseRequest, read_response_request
from gateway.http.sse import Event, EventStream
from gateway.wire import RequestLimits
from internvl.errors import NotFound, ServingError
from internvl.v1 import chat_service_pb2, content_pb2


class Responses:
    """Turns that are kept, so that the next one need not send them again."""

    def __init__(
        self,
        chats: Chats,
        archive: ResponseArchive,
        models: Models,
        media: MediaReader,
        limits: RequestLimits,
    ) -> None:
        self._chats = chats
        self._archive = archive
        self._models = models
        self._media = media
        self._limits = limits

    async def create(self, call: Call) -> Response:
        """Answer, at once, in a stream or in the background."""
        asked = read_response_request(call.json, self._limits)
        model = await self._models.check(asked.model, call.caller, call.deadline)
        history: Sequence[content_pb2.Message] = ()
        if asked.previous is not None:
            history = await self._archive.history(asked.previous, call)
        names = asked.names(len(history), stored=asked.store)
        with names.translated():
            await self._media.store(asked.messages.media, call.caller)
            call.body_stored()
            if not asked.store:
                chat = asked.to_proto(call.request_id, history, None)
                response = _response(ResponseId(uuid.uuid4().hex), model, asked)
                return await self._answer(asked, chat, response, history, call)
            kept = await self._archive.create(asked.system_text, call)
            async with self._forgotten_on_failure(kept, call):
                chat = asked.to_proto(call.request_id, history, kept.conversation_id)
                if asked.background:
                    kept = await self._archive.start(kept, chat, call)
                    return JSONResponse(_response(kept, model, asked).to_json())
                return await self._answer(asked, chat, _response(kept, model, asked), history, call)

    async def get(self, call: Call) -> Response:
        """A response that is kept."""
        self._refuse_query(call)
        model = await self._models.last_known(call.caller, call.deadline)
        return JSONResponse((await self._archive.get(call.path["id"], model, call)).to_json())

    async def items(self, call: Call) -> Response:
        """What a response was asked."""
        items = input_items(await self._archive.questions(call.path["id"], call), call.path["id"])
        if call.query.get("order", "desc") == "desc":
            items.reverse()
        ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
        return JSONResponse({"object": "list", "data": items, "has_more": False, **ends})

    async def cancel(self, call: Call) -> Response:
        """End a response in the background."""
        await self._archive.cancel(call.path["id"], call)
        return await self.get(call)

    async def delete(self, call: Call) -> Response:
        """Forget a response."""
        try:
            await self._archive.delete(ResponseId.parse(call.path["id"]), call)
        except NotFound:
            raise NotFound("no response of this id is kept") from None
        return JSONResponse({"id": call.path["id"], "object": "response", "deleted": True})

    async def _answer(
        self,
        asked: ResponseRequest,
        chat: chat_service_pb2.ChatRequest,
        response: ResponseObject,
        history: Sequence[content_pb2.Message],
        call: Call,
    ) -> Response:
        if asked.stream:
            events = ResponseEvents(response)
            return EventStream(self._stream(asked, chat, events, len(history), call), events.failed)
        async with self._chats.chat(chat, call.caller, call.deadline) as turn:
            return JSONResponse(await response.whole(turn.events))

    async def _stream(
        self,
        asked: ResponseRequest,
        chat: chat_service_pb2.ChatRequest,
        events: ResponseEvents,
        history: int,
        call: Call,
    ) -> AsyncGenerator[Event]:
        begun = False
        try:
            with asked.names(history, stored=asked.store).translated():
                async with self._chats.chat(chat, call.caller, call.deadline) as turn:
                    async for event in events.stream(turn.events):
                        begun = True
                        yield event
        except BaseException:
            if not begun and asked.store:
                await self._forget(ResponseId(chat.conversation_id), call)
            raise

    @asynccontextmanager
    async def _forgotten_on_failure(self, kept: ResponseId, call: Call) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self._forget(kept, call)
            raise

    async def _forget(self, kept: ResponseId, call: Call) -> None:
        """Delete a response whose id nobody was told, so that nobody could ever ask for it."""
        with suppress(ServingError):
            await self._archive.delete(kept, call)

    def _refuse_query(self, call: Call) -> None:
        for name in ("stream", "starting_after"):
            if call.query.get(name, "false") != "false":
                raise UnsupportedField(
                    name, "is not offered by this server; ask again until the status changes"
                )


def _response(response_id: ResponseId, model: str, asked: ResponseRequest) -> ResponseObject:
    return ResponseObject(
        str(response_id),
        model,
        previous=asked.previous,
        echo={**asked.echo, "instructions": asked.system_text},
        background=asked.background,
        store=asked.store,
    )
