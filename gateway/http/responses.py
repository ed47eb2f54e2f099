"""`/v1/responses`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from gateway.chats import Chats
from gateway.http.endpoint import Call
from gateway.http.errors import UnsupportedField
from gateway.http.media import MediaReader
from gateway.http.models import Models
from gateway.http.response_archive import ResponseArchive, ResponseId
from gateway.http.response_keys import ResponseKeys
from gateway.http.response_object import ResponseEvents, ResponseObject, input_items
from gateway.http.response_request import ResponseRequest, read_response_request
from gateway.http.sse import Event, EventStream
from gateway.storage.claims import Claim
from gateway.wire import RequestLimits
from internvl.errors import NotFound, ServingError
from internvl.v1 import chat_service_pb2, content_pb2


@dataclass(frozen=True, slots=True)
class _Turn:
    """The turn of a response that is to come.

    Attributes:
        call: the request.
        asked: what it asks.
        history: messages said before.
        chat: the turn.
        response: as far as it has come.
        room: where it will be kept; None if it is not, or is already.
        claim: to its key, if it has one.
    """

    call: Call
    asked: ResponseRequest
    history: int
    chat: chat_service_pb2.ChatRequest
    response: ResponseObject
    room: ResponseId | None = None
    claim: Claim | None = None


class Responses:
    """Turns that are kept, so that the next one need not send them again."""

    def __init__(
        self,
        chats: Chats,
        archive: ResponseArchive,
        keys: ResponseKeys,
        models: Models,
        media: MediaReader,
        limits: RequestLimits,
    ) -> None:
        self._chats = chats
        self._archive = archive
        self._keys = keys
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
        with asked.names(len(history), stored=asked.store).translated():
            await self._media.store(asked.messages.media, call.caller)
            call.body_stored()
            # Outside of any conversation, so that it says all that is asked.
            alone = asked.to_proto(call.request_id, history, None, call.idempotency_key)
            if not asked.store:
                response = _response(ResponseId(uuid.uuid4().hex), model, asked)
                return await self._answer(_Turn(call, asked, len(history), alone, response))
            found = await self._keys.find(alone, call, background=asked.background)
            if isinstance(found, ResponseId):
                known = await self._archive.get(str(found), model, call)
                if asked.background:
                    return JSONResponse(known.to_json())
                chat = asked.to_proto(call.request_id, history, found.conversation_id, call.idempotency_key)
                return await self._answer(
                    _Turn(call, asked, len(history), chat, _response(found, model, asked))
                )
            room = await self._archive.create(asked.system_text, call)
            key = None if asked.background else call.idempotency_key
            chat = asked.to_proto(call.request_id, history, room.conversation_id, key)
            turn = _Turn(call, asked, len(history), chat, _response(room, model, asked), room, found)
            return await (self._start(turn) if asked.background else self._answer(turn))

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

    async def _start(self, turn: _Turn) -> Response:
        """Answer in the background."""
        async with self._kept(turn):
            turn.response.response_id = str(await self._archive.start(turn.chat, turn.call))
        return JSONResponse(turn.response.to_json())

    async def _answer(self, turn: _Turn) -> Response:
        """Answer at once or in a stream."""
        if turn.asked.stream:
            events = ResponseEvents(turn.response)
            return EventStream(self._stream(turn, events), events.failed)
        async with (
            self._kept(turn),
            self._chats.chat(turn.chat, turn.call.caller, turn.call.deadline) as running,
        ):
            return JSONResponse(await turn.response.whole(running.events))

    async def _stream(self, turn: _Turn, events: ResponseEvents) -> AsyncGenerator[Event]:
        with turn.asked.names(turn.history, stored=turn.asked.store).translated():
            async with (
                self._kept(turn, events),
                self._chats.chat(turn.chat, turn.call.caller, turn.call.deadline) as running,
            ):
                async for event in events.stream(running.events):
                    yield event

    @asynccontextmanager
    async def _kept(self, turn: _Turn, events: ResponseEvents | None = None) -> AsyncIterator[None]:
        """Hold the room and the key of a response while its turn runs, and answer the key at the end.

        If it fails, its room is given up and its key is free again; without a key, what a client was told of
        stays as far as it came.
        """
        if turn.room is None:
            yield
            return
        async with self._keys.held(turn.claim):
            try:
                yield
            except BaseException:
                told = events is not None and events.begun
                if turn.response.answered:  # its client has left in the last moment
                    await self._keys.answer(turn.claim, turn.response.response_id)
                elif turn.claim is not None or not told:
                    with suppress(ServingError):
                        await self._archive.delete(turn.room, turn.call)
                raise
            await self._keys.answer(turn.claim, turn.response.response_id)

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
