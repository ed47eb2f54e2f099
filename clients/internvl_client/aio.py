"""The asynchronous client: the same calls with `await`, over the same requests and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, BinaryIO, Self, Unpack, cast

import grpc

from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc
from internvl_client.answer import Answer, Delta, Event, Plan
from internvl_client.answer_state import AnswerState
from internvl_client.channel import CHANNEL_OPTIONS, DEFAULT_TIMEOUT_S, ServerInfo, default_address
from internvl_client.client import UploadProgress
from internvl_client.content import Media, MediaSource, Message, open_source, size_of
from internvl_client.errors import typed_errors
from internvl_client.options import ChatOptions, PlanOptions, SayOptions, check_names
from internvl_client.requests import TurnDraft, upload_chunks
from internvl_client.responses import read_media, read_message, read_plan, read_server_info

Call = grpc.aio.UnaryStreamCall[chat_service_pb2.ChatRequest, chat_service_pb2.ChatResponse]


class AsyncChatStream(AnswerState):
    """One answer as it is written: iterate for its text; it adds up meanwhile.

    The request is sent when the stream is first used. Leaving an `async with` block cancels an answer that is
    not complete.
    """

    def __init__(self, start: Callable[[], Awaitable[Call]]) -> None:
        super().__init__()
        self._start = start
        self._call: Call | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        """Pieces of the answer; of several, those of the first.

        Raises:
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        async for event in self.events():
            if isinstance(event, Delta) and event.text and event.choice == 0:
                yield event.text

    async def events(self) -> AsyncIterator[Event]:
        """Everything that happens, text included; an `Answer` comes last.

        Raises:
            OSError: a file cannot be read.
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        with self._ending_quietly(), typed_errors():
            while (response := await self._read()) is not None:
                event = self._add(response)
                if event is not None:
                    yield event

    async def result(self) -> Answer:
        """Wait for the complete answer.

        Raises:
            InternVLError: whatever ends it early.
        """
        async for _ in self.events():
            pass
        return self._finished()

    def cancel(self) -> None:
        """Stop the answer on all tiers; iteration ends. A complete answer stays as it is."""
        self._note_cancel()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def _read(self) -> chat_service_pb2.ChatResponse | None:
        if self._cancelled:
            return None
        if self._call is None:
            self._call = await self._start()
        try:
            response: Any = await self._call.read()
        except asyncio.CancelledError:
            # gRPC raises this for `cancel` as well as for the cancellation of our own task.
            if self._cancelled:
                return None
            raise
        return None if response is grpc.aio.EOF else response


class AsyncClient:
    """A connection to a server, for one event loop. Close it, or use it in an `async with` block."""

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """As for `Client`."""
        self._timeout = timeout
        address = address or default_address()
        self._channel = (
            grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, CHANNEL_OPTIONS)
        )
        self._stub = chat_service_pb2_grpc.ChatServiceStub(self._channel)

    def chat(self, text: str | None = None, **options: Unpack[ChatOptions]) -> AsyncChatStream:
        """As `Client.chat`; files are read and the request is sent when the stream is first used."""
        check_names(options, ChatOptions)

        async def start() -> Call:
            return await self._chat(text, options, None)

        return AsyncChatStream(start)

    def conversation(
        self, *, system: str | None = None, conversation_id: str | None = None
    ) -> AsyncConversation:
        """A conversation that the server keeps: a new one, or an earlier one by its id."""
        return AsyncConversation(self, system, conversation_id)

    async def plan(self, text: str | None = None, **options: Unpack[PlanOptions]) -> Plan:
        """As `Client.plan`."""
        check_names(options, PlanOptions)
        draft = await self._draft(text, cast(ChatOptions, options), None)
        with typed_errors():
            return read_plan(
                await self._stub.PlanTurn(draft.plan_request(), timeout=self._limit(draft.timeout))
            )

    async def upload(
        self,
        source: MediaSource,
        *,
        progress: UploadProgress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (the server shares this limit)
    ) -> Media:
        """As `Client.upload`; `progress` is called on the event loop."""
        if isinstance(source, Media):
            return source
        with await asyncio.to_thread(open_source, source) as file:
            return await self._upload(file, progress, timeout)

    async def info(self, *, timeout: float | None = None) -> ServerInfo:  # noqa: ASYNC109
        """As `Client.info`."""
        request = chat_service_pb2.ServerInfoRequest()
        with typed_errors():
            return read_server_info(await self._stub.ServerInfo(request, timeout=self._limit(timeout)))

    async def close(self) -> None:
        """Close the connection; answers under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _chat(self, text: str | None, options: ChatOptions, conversation_id: str | None) -> Call:
        draft = await self._draft(text, options, conversation_id)
        return self._stub.Chat(draft.chat_request(), timeout=self._limit(draft.timeout))

    async def _draft(self, text: str | None, options: ChatOptions, conversation_id: str | None) -> TurnDraft:
        draft = await asyncio.to_thread(TurnDraft, text, options, conversation_id)
        try:
            for pending in draft.uploads:
                pending.done(await self._upload(pending.file, None, draft.timeout))
        finally:
            draft.close()
        return draft

    async def _upload(self, file: BinaryIO, progress: UploadProgress | None, limit_s: float | None) -> Media:
        async def requests() -> AsyncIterator[chat_service_pb2.UploadMediaRequest]:
            size, sent = size_of(file), 0
            chunks = upload_chunks(file)
            while (request := await asyncio.to_thread(next, chunks, None)) is not None:
                yield request
                sent += len(request.chunk)
                if progress is not None:
                    progress(sent, size)

        with typed_errors():
            return read_media(await self._stub.UploadMedia(requests(), timeout=self._limit(limit_s)))

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout


class AsyncConversation:
    """A conversation that the server keeps. It is created with the first question."""

    def __init__(self, client: AsyncClient, system: str | None, conversation_id: str | None) -> None:
        self._client = client
        self._system = system
        self._id = conversation_id

    @property
    def conversation_id(self) -> str | None:
        """Its id on the server; None before the first question."""
        return self._id

    def say(self, text: str, **options: Unpack[SayOptions]) -> AsyncChatStream:
        """As `Conversation.say`; the question is sent when the stream is first used."""
        check_names(options, SayOptions)

        async def start() -> Call:
            return await self._client._chat(text, cast(ChatOptions, options), await self._created())

        return AsyncChatStream(start)

    async def messages(self) -> tuple[Message, ...]:
        """As `Conversation.messages`."""
        request = chat_service_pb2.GetConversationRequest(conversation_id=await self._created())
        client = self._client
        with typed_errors():
            response = await client._stub.GetConversation(request, timeout=client._limit(None))
        return tuple(read_message(message) for message in response.conversation.messages)

    async def delete(self) -> None:
        """As `Conversation.delete`."""
        if self._id is None:
            return
        request = chat_service_pb2.DeleteConversationRequest(conversation_id=self._id)
        client = self._client
        with typed_errors():
            await client._stub.DeleteConversation(request, timeout=client._limit(None))
        self._id = None

    async def _created(self) -> str:
        if self._id is None:
            request = chat_service_pb2.CreateConversationRequest(system_text=self._system)
            client = self._client
            with typed_errors():
                response = await client._stub.CreateConversation(request, timeout=client._limit(None))
            self._id = response.conversation.conversation_id
        return self._id
