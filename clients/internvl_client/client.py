"""The synchronous client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, Unpack, cast

import grpc

from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc
from internvl_client.answer import Plan
from internvl_client.channel import (
    CHANNEL_OPTIONS,
    DEFAULT_TIMEOUT_S,
    ServerInfo,
    call_metadata,
    default_address,
    tls_credentials,
)
from internvl_client.content import Media, MediaSource, open_source, size_of
from internvl_client.conversation import Conversation
from internvl_client.conversation_info import ConversationInfo, read_conversation
from internvl_client.errors import typed_errors
from internvl_client.options import ChatOptions, ConversationOptions, PlanOptions, check_names
from internvl_client.reattaching import ReattachingCall
from internvl_client.requests import InlineBudget, TurnDraft, upload_chunks
from internvl_client.responses import read_media, read_plan, read_server_info
from internvl_client.stream import ChatStream
from internvl_client.turn_status import BatchProgress, BatchResult, Question, read_batch
from internvl_client.turns import Turn

T = TypeVar("T")

UploadProgress = Callable[[int, int], None]


class Client:
    """A connection to a server. Use it from any thread; close it, or use it in a `with` block."""

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        tls: bool | str | Path = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a connection; it is made with the first call.

        Args:
            address: any gRPC target; None for `INTERNVL_ADDRESS` of the environment, else `127.0.0.1:50050`.
            api_key: API key or token to show; None for `INTERNVL_API_KEY` of the environment, else none.
            timeout: seconds that a call may take unless it says otherwise; None for no limit.
            tls: whether to encrypt: True trusts the usual authorities, a path those of that PEM file.
            credentials: for what `tls` cannot say, such as certificates of the client; None for plaintext.

        Raises:
            OSError: the file of `tls` cannot be read.
            ValueError: `api_key` holds what no header can.
        """
        self._timeout = timeout
        self._metadata = call_metadata(api_key)
        address = address or default_address()
        credentials = credentials or tls_credentials(tls)
        self._channel = (
            grpc.insecure_channel(address, CHANNEL_OPTIONS)
            if credentials is None
            else grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)
        )
        self._stub = chat_service_pb2_grpc.ChatServiceStub(self._channel)

    def chat(self, text: str | None = None, **options: Unpack[ChatOptions]) -> ChatStream:
        """Ask a question, or with `messages=` continue a conversation. The answer is streamed.

        Args:
            text: the question.
            **options: `ChatOptions`: pictures, films, instructions, sampling, timeout.

        Raises:
            OSError: a file cannot be read.
            InternVLError: an upload failed, or a sampling value is of the wrong type.
        """
        check_names(options, ChatOptions)
        return self._chat(TurnDraft(text, options))

    def start_turn(self, text: str | None = None, **options: Unpack[ChatOptions]) -> Turn:
        """As `chat`, but the server runs the turn by itself, for long documents and films.

        Raises:
            OSError: a file cannot be read.
            InternVLError: whatever the server answers.
        """
        check_names(options, ChatOptions)
        draft = self._uploaded(TurnDraft(text, options))
        request = chat_service_pb2.StartTurnRequest(chat=draft.chat_request())
        return Turn(self, self._call(self._stub.StartTurn, request, draft.timeout).turn_id)

    def turn(self, turn_id: str) -> Turn:
        """A turn that was started before."""
        return Turn(self, turn_id)

    def batch(
        self,
        questions: Iterable[str | Question],
        *,
        max_concurrent: int | None = None,
        on_progress: BatchProgress | None = None,
        timeout: float | None = None,
    ) -> Iterator[BatchResult]:
        """Ask many independent questions at once; results come as they finish. Closing the iterator ends it.

        Args:
            questions: texts, or `Question`s with options; at most 1000.
            max_concurrent: how many are under way at a time; None for the server's own, 8.
            on_progress: called with questions done and questions in all, before each result.
            timeout: seconds for all of them; None for no limit.

        Raises:
            OSError: a file cannot be read.
            InternVLError: the batch as a whole failed.
        """
        asked = [each if isinstance(each, Question) else Question(each) for each in questions]
        inline = InlineBudget()
        drafts = [self._uploaded(TurnDraft(each.text, each.options, inline=inline)) for each in asked]
        request = chat_service_pb2.BatchChatRequest(
            requests=[draft.chat_request() for draft in drafts], max_concurrent=max_concurrent
        )
        call = self._stub.BatchChat(request, timeout=timeout, metadata=self._metadata)
        try:
            with typed_errors():
                for response in call:
                    if on_progress is not None:
                        on_progress(response.done, response.total)
                    yield read_batch(response)
        finally:
            call.cancel()

    def conversation(
        self, *, conversation_id: str | None = None, **options: Unpack[ConversationOptions]
    ) -> Conversation:
        """A conversation that the server keeps: a new one, or an earlier one by its id.

        Args:
            conversation_id: of an earlier one.
            **options: `ConversationOptions` of a new one.
        """
        check_names(options, ConversationOptions)
        return Conversation(self, conversation_id, options)

    def conversations(self) -> Iterator[ConversationInfo]:
        """All conversations that the server keeps for this caller, the last changed first.

        Raises:
            InternVLError: whatever the server answers.
        """
        request = chat_service_pb2.ListConversationsRequest()
        while True:
            page = self._call(self._stub.ListConversations, request)
            yield from map(read_conversation, page.conversations)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def plan(self, text: str | None = None, **options: Unpack[PlanOptions]) -> Plan:
        """What `chat` with the same arguments would cost, exactly, without running it.

        Args:
            text: the question.
            **options: `PlanOptions`: pictures, films, instructions, bounds of tiles and answer, timeout.

        Raises:
            OSError: a file cannot be read.
            InternVLError: whatever the server answers.
        """
        check_names(options, PlanOptions)
        return self._plan(TurnDraft(text, cast(ChatOptions, options)))

    def upload(
        self,
        source: MediaSource,
        *,
        progress: UploadProgress | None = None,
        timeout: float | None = None,
    ) -> Media:
        """Store a file on the server, to use it in several turns.

        Args:
            source: a path, the bytes of a file, or a PIL image.
            progress: called with bytes sent and bytes in all, from another thread.
            timeout: seconds; None for the client's own.

        Raises:
            OSError: the file cannot be read.
            InternVLError: whatever the server answers.
        """
        if isinstance(source, Media):
            return source
        with open_source(source) as file:
            return self._upload(file, progress, timeout)

    def info(self, *, timeout: float | None = None) -> ServerInfo:
        """The model behind the server.

        Raises:
            InternVLError: whatever the server answers.
        """
        request = chat_service_pb2.ServerInfoRequest()
        return read_server_info(self._call(self._stub.ServerInfo, request, timeout))

    def close(self) -> None:
        """Close the connection; answers under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chat(self, draft: TurnDraft) -> ChatStream:
        request = self._uploaded(draft).chat_request()
        limit_s = self._limit(draft.timeout)
        call = self._stub.Chat(request, timeout=limit_s, metadata=self._metadata)
        return ChatStream(ReattachingCall(call, self._attach, limit_s) if request.resumable else call)

    def _plan(self, draft: TurnDraft) -> Plan:
        request = self._uploaded(draft).plan_request()
        return read_plan(self._call(self._stub.PlanTurn, request, draft.timeout))

    def _attach(self, request: chat_service_pb2.AttachTurnRequest, limit_s: float | None) -> Any:
        return self._stub.AttachTurn(request, timeout=limit_s, metadata=self._metadata)

    def _uploaded(self, draft: TurnDraft) -> TurnDraft:
        try:
            for pending in draft.uploads:
                pending.done(self._upload(pending.file, None, draft.timeout))
        finally:
            draft.close()
        return draft

    def _upload(self, file: BinaryIO, progress: UploadProgress | None, timeout: float | None) -> Media:
        def requests() -> Iterator[chat_service_pb2.UploadMediaRequest]:
            size, sent = size_of(file), 0
            for request in upload_chunks(file):
                yield request
                sent += len(request.chunk)
                if progress is not None:
                    progress(sent, size)

        return read_media(self._call(self._stub.UploadMedia, requests(), timeout))

    def _call(self, method: Callable[..., T], request: object, timeout: float | None = None) -> T:
        """Make a call that has one response.

        Raises:
            InternVLError: whatever the server answers.
        """
        with typed_errors():
            return method(request, timeout=self._limit(timeout), metadata=self._metadata)

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout
