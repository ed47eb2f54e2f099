"""The synchronous client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Protocol, Self, Unpack, cast

import grpc

from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc
from internvl_client.answer import Answer, Delta, Event, Plan
from internvl_client.answer_state import AnswerState
from internvl_client.channel import CHANNEL_OPTIONS, DEFAULT_TIMEOUT_S, ServerInfo, default_address
from internvl_client.content import Media, MediaSource, Message, open_source, size_of
from internvl_client.errors import typed_errors
from internvl_client.options import ChatOptions, PlanOptions, SayOptions, check_names
from internvl_client.requests import TurnDraft, upload_chunks
from internvl_client.responses import read_media, read_message, read_plan, read_server_info

UploadProgress = Callable[[int, int], None]


class _Call(Protocol):
    """A streaming call of gRPC, whose own type is private."""

    def __iter__(self) -> Iterator[chat_service_pb2.ChatResponse]: ...

    def cancel(self) -> object: ...


class ChatStream(AnswerState):
    """One answer as it is written: iterate for its text; it adds up meanwhile.

    Leaving a `with` block cancels an answer that is not complete.
    """

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self._call = call

    def __iter__(self) -> Iterator[str]:
        """Pieces of the answer; of several, those of the first.

        Raises:
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        for event in self.events():
            if isinstance(event, Delta) and event.text and event.choice == 0:
                yield event.text

    def events(self) -> Iterator[Event]:
        """Everything that happens, text included; an `Answer` comes last.

        Raises:
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        with self._ending_quietly(), typed_errors():
            for response in self._call:
                event = self._add(response)
                if event is not None:
                    yield event

    def result(self) -> Answer:
        """Wait for the complete answer.

        Raises:
            InternVLError: whatever ends it early.
        """
        for _ in self.events():
            pass
        return self._finished()

    def cancel(self) -> None:
        """Stop the answer on all tiers; iteration ends. A complete answer stays as it is."""
        self._note_cancel()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class Client:
    """A connection to a server. Use it from any thread; close it, or use it in a `with` block."""

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a connection; it is made with the first call.

        Args:
            address: any gRPC target; None for `INTERNVL_ADDRESS` of the environment, else `127.0.0.1:50050`.
            timeout: seconds that a call may take unless it says otherwise; None for no limit.
            credentials: for TLS; None for plaintext.
        """
        self._timeout = timeout
        address = address or default_address()
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

    def conversation(self, *, system: str | None = None, conversation_id: str | None = None) -> Conversation:
        """A conversation that the server keeps: a new one, or an earlier one by its id."""
        return Conversation(self, system, conversation_id)

    def plan(self, text: str | None = None, **options: Unpack[PlanOptions]) -> Plan:
        """What `chat` with the same arguments would cost, exactly, without running it.

        Raises:
            OSError: a file cannot be read.
            InternVLError: whatever the server answers.
        """
        check_names(options, PlanOptions)
        draft = self._uploaded(TurnDraft(text, cast(ChatOptions, options)))
        with typed_errors():
            return read_plan(self._stub.PlanTurn(draft.plan_request(), timeout=self._limit(draft.timeout)))

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
        with typed_errors():
            return read_server_info(self._stub.ServerInfo(request, timeout=self._limit(timeout)))

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
        return ChatStream(self._stub.Chat(request, timeout=self._limit(draft.timeout)))

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

        with typed_errors():
            return read_media(self._stub.UploadMedia(requests(), timeout=self._limit(timeout)))

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout


class Conversation:
    """A conversation that the server keeps. It is created with the first question."""

    def __init__(self, client: Client, system: str | None, conversation_id: str | None) -> None:
        self._client = client
        self._system = system
        self._id = conversation_id

    @property
    def conversation_id(self) -> str | None:
        """Its id on the server; None before the first question."""
        return self._id

    def say(self, text: str, **options: Unpack[SayOptions]) -> ChatStream:
        """Ask the next question. The turn is kept with its answer, also one that ended early.

        Raises:
            OSError: a file cannot be read.
            InternVLError: the conversation could not be created, or as for `Client.chat`.
        """
        check_names(options, SayOptions)
        return self._client._chat(TurnDraft(text, cast(ChatOptions, options), self._created()))

    def messages(self) -> tuple[Message, ...]:
        """All messages, oldest first, with media named by id.

        Raises:
            InternVLError: whatever the server answers.
        """
        request = chat_service_pb2.GetConversationRequest(conversation_id=self._created())
        client = self._client
        with typed_errors():
            response = client._stub.GetConversation(request, timeout=client._limit(None))
        return tuple(read_message(message) for message in response.conversation.messages)

    def delete(self) -> None:
        """Forget it on the server; the next question starts anew.

        Raises:
            InternVLError: whatever the server answers.
        """
        if self._id is None:
            return
        request = chat_service_pb2.DeleteConversationRequest(conversation_id=self._id)
        client = self._client
        with typed_errors():
            client._stub.DeleteConversation(request, timeout=client._limit(None))
        self._id = None

    def _created(self) -> str:
        if self._id is None:
            request = chat_service_pb2.CreateConversationRequest(system_text=self._system)
            client = self._client
            with typed_errors():
                response = client._stub.CreateConversation(request, timeout=client._limit(None))
            self._id = response.conversation.conversation_id
        return self._id
