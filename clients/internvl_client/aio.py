"""The asynchronous client: the same calls with `await`, over the same requests and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, Unpack, cast

import grpc

from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc
from internvl_client.aio_conversation import AsyncConversation
from internvl_client.aio_stream import AsyncChatStream, Call
from internvl_client.aio_turns import AsyncTurn
from internvl_client.answer import Plan
from internvl_client.channel import (
    CHANNEL_OPTIONS,
    DEFAULT_TIMEOUT_S,
    ServerInfo,
    call_metadata,
    default_address,
    tls_credentials,
)
from internvl_client.client import UploadProgress
from internvl_client.content import Media, MediaSource, open_source, size_of
from internvl_client.conversation_info import ConversationInfo, read_conversation
from internvl_client.errors import typed_errors
from internvl_client.options import ChatOptions, ConversationOptions, PlanOptions, check_names
from internvl_client.reattaching import AsyncReattachingCall
from internvl_client.requests import InlineBudget, TurnDraft, upload_chunks
from internvl_client.responses import read_media, read_plan, read_server_info
from internvl_client.turn_status import BatchProgress, BatchResult, Question, read_batch

T = TypeVar("T")


class AsyncClient:
    """A connection to a server, for one event loop. Close it, or use it in an `async with` block."""

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        tls: bool | str | Path = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """As for `Client`."""
        self._timeout = timeout
        self._metadata = call_metadata(api_key)
        address = address or default_address()
        credentials = credentials or tls_credentials(tls)
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

    async def start_turn(self, text: str | None = None, **options: Unpack[ChatOptions]) -> AsyncTurn:
        """As `Client.start_turn`."""
        check_names(options, ChatOptions)
        draft = await self._draft(text, options, None)
        request = chat_service_pb2.StartTurnRequest(chat=draft.chat_request())
        return AsyncTurn(self, (await self._call(self._stub.StartTurn, request, draft.timeout)).turn_id)

    def turn(self, turn_id: str) -> AsyncTurn:
        """As `Client.turn`."""
        return AsyncTurn(self, turn_id)

    async def batch(
        self,
        questions: Iterable[str | Question],
        *,
        max_concurrent: int | None = None,
        on_progress: BatchProgress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (the server shares this limit)
    ) -> AsyncIterator[BatchResult]:
        """As `Client.batch`."""
        asked = [each if isinstance(each, Question) else Question(each) for each in questions]
        inline = InlineBudget()
        drafts = [await self._draft(each.text, each.options, None, inline) for each in asked]
        request = chat_service_pb2.BatchChatRequest(
            requests=[draft.chat_request() for draft in drafts], max_concurrent=max_concurrent
        )
        call = self._stub.BatchChat(request, timeout=timeout, metadata=self._metadata)
        try:
            with typed_errors():
                async for response in call:
                    if on_progress is not None:
                        on_progress(response.done, response.total)
                    yield read_batch(response)
        finally:
            call.cancel()

    def conversation(
        self, *, conversation_id: str | None = None, **options: Unpack[ConversationOptions]
    ) -> AsyncConversation:
        """As `Client.conversation`."""
        check_names(options, ConversationOptions)
        return AsyncConversation(self, conversation_id, options)

    async def conversations(self) -> AsyncIterator[ConversationInfo]:
        """As `Client.conversations`."""
        request = chat_service_pb2.ListConversationsRequest()
        while True:
            page = await self._call(self._stub.ListConversations, request)
            for conversation in page.conversations:
                yield read_conversation(conversation)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def plan(self, text: str | None = None, **options: Unpack[PlanOptions]) -> Plan:
        """As `Client.plan`."""
        check_names(options, PlanOptions)
        return await self._plan(text, cast(ChatOptions, options), None)

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
        return read_server_info(await self._call(self._stub.ServerInfo, request, timeout))

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
        limit_s = self._limit(draft.timeout)
        request = draft.chat_request()
        call = self._stub.Chat(request, timeout=limit_s, metadata=self._metadata)
        if request.resumable:
            return cast(Call, AsyncReattachingCall(call, self._attach, limit_s))
        return call

    async def _plan(self, text: str | None, options: ChatOptions, conversation_id: str | None) -> Plan:
        draft = await self._draft(text, options, conversation_id)
        return read_plan(await self._call(self._stub.PlanTurn, draft.plan_request(), draft.timeout))

    def _attach(self, request: chat_service_pb2.AttachTurnRequest, limit_s: float | None) -> Any:
        return self._stub.AttachTurn(request, timeout=limit_s, metadata=self._metadata)

    async def _draft(
        self,
        text: str | None,
        options: ChatOptions,
        conversation_id: str | None,
        inline: InlineBudget | None = None,
    ) -> TurnDraft:
        draft = await asyncio.to_thread(TurnDraft, text, options, conversation_id, inline)
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

        return read_media(await self._call(self._stub.UploadMedia, requests(), limit_s))

    async def _call(
        self, method: Callable[..., Awaitable[T]], request: object, limit_s: float | None = None
    ) -> T:
        """As `Client._call`."""
        with typed_errors():
            return await method(request, timeout=self._limit(limit_s), metadata=self._metadata)

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout
