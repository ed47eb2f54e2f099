"""The conversation calls of every door: create, list, fetch, change, fork, forget."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from gateway.caller import Caller
from gateway.content import Message, Role, Text
from gateway.deadline import Deadline
from gateway.flag_types import LONGEST_S
from gateway.storage.conversation_wire import conversation_to_proto, head_to_proto
from gateway.storage.conversations import ConversationStore
from gateway.wire import RequestLimits
from internvl.errors import InvalidField
from internvl.v1 import chat_service_pb2

_MAX_TITLE = 256
_DEFAULT_PAGE, _MAX_PAGE = 50, 500


@dataclass(frozen=True, slots=True)
class Kept:
    """How many conversations are kept, and how long.

    Attributes:
        time_to_live_s: after the last change, in seconds, by default and at most; None for ever.
        most: of each tenant.
    """

    time_to_live_s: float | None = None
    most: int = 100_000


class ConversationCalls:
    """What can be done with conversations beside talking.

    Requests and answers are the messages of `internvl.v1.ChatService`, which say what each field means.
    Every call may raise `ServingError`.
    """

    def __init__(self, store: ConversationStore, limits: RequestLimits, kept: Kept) -> None:
        self._store = store
        self._limits = limits
        self._kept = kept

    async def create_conversation(
        self, request: chat_service_pb2.CreateConversationRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.CreateConversationResponse:
        opening = []
        if request.HasField("system_text"):
            if len(request.system_text.encode()) > self._limits.max_text_bytes:
                raise InvalidField("system_text", f"at most {self._limits.max_text_bytes} bytes of text")
            opening.append(Message(Role.SYSTEM, (Text(request.system_text),)))
        asked_s = _seconds(request.time_to_live) if request.HasField("time_to_live") else None
        conversation = await self._store.create(
            caller.tenant,
            opening,
            title=_title(request.title),
            time_to_live_s=self._at_most(asked_s),
        )
        return chat_service_pb2.CreateConversationResponse(conversation=conversation_to_proto(conversation))

    async def list_conversations(
        self, request: chat_service_pb2.ListConversationsRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.ListConversationsResponse:
        size = request.page_size if request.HasField("page_size") else _DEFAULT_PAGE
        if not 1 <= size <= _MAX_PAGE:
            raise InvalidField("page_size", f"must be 1 to {_MAX_PAGE}, got {size}")
        page = await self._store.list(caller.tenant, size, request.page_token)
        return chat_service_pb2.ListConversationsResponse(
            conversations=map(head_to_proto, page.heads), next_page_token=page.next_token
        )

    async def get_conversation(
        self, request: chat_service_pb2.GetConversationRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.GetConversationResponse:
        conversation = await self._store.get(caller.tenant, _id(request.conversation_id))
        return chat_service_pb2.GetConversationResponse(conversation=conversation_to_proto(conversation))

    async def update_conversation(
        self, request: chat_service_pb2.UpdateConversationRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.UpdateConversationResponse:
        asked_s = _seconds(request.time_to_live) if request.HasField("time_to_live") else None
        head = await self._store.update(
            caller.tenant,
            _id(request.conversation_id),
            title=_title(request.title) if request.HasField("title") else None,
            time_to_live_s=None if asked_s is None else self._at_most(asked_s),
        )
        return chat_service_pb2.UpdateConversationResponse(conversation=head_to_proto(head))

    async def fork_conversation(
        self, request: chat_service_pb2.ForkConversationRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.ForkConversationResponse:
        fork = await self._store.fork(
            caller.tenant,
            _id(request.conversation_id),
            request.turns if request.HasField("turns") else None,
            _title(request.title) if request.HasField("title") else None,
        )
        return chat_service_pb2.ForkConversationResponse(conversation=conversation_to_proto(fork))

    async def delete_conversation(
        self, request: chat_service_pb2.DeleteConversationRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.DeleteConversationResponse:
        await self._store.delete(caller.tenant, _id(request.conversation_id))
        return chat_service_pb2.DeleteConversationResponse()

    def _at_most(self, asked_s: float | None) -> float | None:
        longest_s = self._kept.time_to_live_s
        if asked_s is None or longest_s is None:
            return longest_s if asked_s is None else asked_s
        return min(asked_s, longest_s)


def _id(conversation_id: str) -> str:
    if not conversation_id:
        raise InvalidField("conversation_id", "is required")
    return conversation_id


def _title(title: str) -> str:
    if len(title) > _MAX_TITLE:
        raise InvalidField("title", f"at most {_MAX_TITLE} characters, got {len(title)}")
    return title


def _seconds(time_to_live: Duration) -> float:
    seconds = time_to_live.seconds + time_to_live.nanos / 1e9
    if not 0 < seconds <= LONGEST_S:
        raise InvalidField("time_to_live", f"must be above 0 and at most {LONGEST_S} seconds")
    return seconds
