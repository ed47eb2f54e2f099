"""A conversation that the server keeps, for the asynchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack, cast

from internvl.v1 import chat_service_pb2
from internvl_client.aio_stream import AsyncChatStream, Call
from internvl_client.answer import Plan
from internvl_client.content import Message
from internvl_client.conversation_info import (
    ConversationInfo,
    TurnInfo,
    create_request,
    read_conversation,
    read_turn,
    update_request,
)
from internvl_client.options import ChatOptions, ConversationOptions, SayOptions, SayPlanOptions, check_names
from internvl_client.responses import read_message

if TYPE_CHECKING:
    from internvl_client.aio import AsyncClient


class AsyncConversation:
    """A conversation that the server keeps. A new one is created with the first call that needs it.

    Every call may raise `InternVLError`: whatever the server answers.
    """

    def __init__(
        self, client: AsyncClient, conversation_id: str | None, options: ConversationOptions
    ) -> None:
        """Prepare it; see `AsyncClient.conversation`."""
        self._client = client
        self._options = options
        self._id = conversation_id

    @property
    def conversation_id(self) -> str | None:
        """Its id on the server; None before it is created."""
        return self._id

    def say(self, text: str, **options: Unpack[SayOptions]) -> AsyncChatStream:
        """As `Conversation.say`; the question is sent when the stream is first used."""
        check_names(options, SayOptions)

        async def start() -> Call:
            return await self._client._chat(text, cast(ChatOptions, options), await self._created())

        return AsyncChatStream(start)

    async def plan(self, text: str, **options: Unpack[SayPlanOptions]) -> Plan:
        """As `Conversation.plan`."""
        check_names(options, SayPlanOptions)
        return await self._client._plan(text, cast(ChatOptions, options), await self._created())

    async def info(self) -> ConversationInfo:
        """Its title, version and times."""
        return read_conversation(await self._fetch())

    async def messages(self) -> tuple[Message, ...]:
        """All messages, oldest first, with media named by id."""
        return tuple(map(read_message, (await self._fetch()).messages))

    async def turns(self) -> tuple[TurnInfo, ...]:
        """How each turn ended, oldest first."""
        return tuple(map(read_turn, (await self._fetch()).turns))

    async def rename(self, title: str) -> ConversationInfo:
        """Give it another title."""
        return await self._update(title, None)

    async def expire_after(self, seconds: float) -> ConversationInfo:
        """Have it forgotten so many seconds after its last change; the server may allow less."""
        return await self._update(None, seconds)

    async def fork(self, turns: int | None = None, *, title: str | None = None) -> Self:
        """A new conversation with the first turns of this one; None for all of them.

        Args:
            turns: how many.
            title: of the new one; None for that of this one.
        """
        request = chat_service_pb2.ForkConversationRequest(
            conversation_id=await self._created(), turns=turns, title=title
        )
        client = self._client
        fork = (await client._call(client._stub.ForkConversation, request)).conversation
        return type(self)(client, fork.conversation_id, {})

    async def delete(self) -> None:
        """Forget it on the server; the next question starts anew."""
        if self._id is None:
            return
        request = chat_service_pb2.DeleteConversationRequest(conversation_id=self._id)
        client = self._client
        await client._call(client._stub.DeleteConversation, request)
        self._id = None

    async def _fetch(self) -> chat_service_pb2.Conversation:
        request = chat_service_pb2.GetConversationRequest(conversation_id=await self._created())
        client = self._client
        return (await client._call(client._stub.GetConversation, request)).conversation

    async def _update(self, title: str | None, time_to_live_s: float | None) -> ConversationInfo:
        request = update_request(await self._created(), title, time_to_live_s)
        client = self._client
        response = await client._call(client._stub.UpdateConversation, request)
        return read_conversation(response.conversation)

    async def _created(self) -> str:
        if self._id is None:
            client = self._client
            response = await client._call(client._stub.CreateConversation, create_request(self._options))
            self._id = response.conversation.conversation_id
        return self._id
