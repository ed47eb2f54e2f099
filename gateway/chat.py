"""The gRPC door: `internvl.v1.ChatService` in front of `Chats`, `TurnCalls` and `ConversationCalls`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from gateway.access.access import GrpcGuard
from gateway.batch import BatchCalls
from gateway.caller import Caller
from gateway.chats import Chats
from gateway.conversation_calls import ConversationCalls
from gateway.deadline import Deadline
from gateway.turn_calls import TurnCalls
from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class ChatService(chat_service_pb2_grpc.ChatServiceServicer):
    """Hands every call on, with who calls and how long they wait."""

    def __init__(
        self,
        chats: Chats,
        batches: BatchCalls,
        turns: TurnCalls,
        conversations: ConversationCalls,
        guard: GrpcGuard,
    ) -> None:
        """`guard` lets the calls in and knows who makes them."""
        self._chats = chats
        self._batches = batches
        self._turns = turns
        self._conversations = conversations
        self._guard = guard

    async def Chat(
        self, request: chat_service_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[chat_service_pb2.ChatResponse]:
        async with self._chats.chat(request, *self._who(context)) as turn:
            # A client that leaves while we write to it does not interrupt this generator at once.
            context.add_done_callback(lambda _: turn.cancel())  # type: ignore[arg-type]
            async for event in turn.events:
                yield event

    async def PlanTurn(
        self, request: chat_service_pb2.PlanTurnRequest, context: Context
    ) -> chat_service_pb2.PlanTurnResponse:
        return await self._chats.plan_turn(request, *self._who(context))

    async def UploadMedia(
        self, request_iterator: AsyncIterator[chat_service_pb2.UploadMediaRequest], context: Context
    ) -> chat_service_pb2.UploadMediaResponse:
        return await self._chats.upload_media(request_iterator, *self._who(context))

    async def CreateConversation(
        self, request: chat_service_pb2.CreateConversationRequest, context: Context
    ) -> chat_service_pb2.CreateConversationResponse:
        return await self._conversations.create_conversation(request, *self._who(context))

    async def GetConversation(
        self, request: chat_service_pb2.GetConversationRequest, context: Context
    ) -> chat_service_pb2.GetConversationResponse:
        return await self._conversations.get_conversation(request, *self._who(context))

    async def DeleteConversation(
        self, request: chat_service_pb2.DeleteConversationRequest, context: Context
    ) -> chat_service_pb2.DeleteConversationResponse:
        return await self._conversations.delete_conversation(request, *self._who(context))

    async def ServerInfo(
        self, request: chat_service_pb2.ServerInfoRequest, context: Context
    ) -> chat_service_pb2.ServerInfoResponse:
        return await self._chats.server_info(request, *self._who(context))

    async def StartTurn(
        self, request: chat_service_pb2.StartTurnRequest, context: Context
    ) -> chat_service_pb2.StartTurnResponse:
        return await self._turns.start_turn(request, *self._who(context))

    async def GetTurn(
        self, request: chat_service_pb2.GetTurnRequest, context: Context
    ) -> chat_service_pb2.GetTurnResponse:
        return await self._turns.get_turn(request, *self._who(context))

    async def AttachTurn(
        self, request: chat_service_pb2.AttachTurnRequest, context: Context
    ) -> AsyncIterator[chat_service_pb2.AttachTurnResponse]:
        async for response in self._turns.attach_turn(request, *self._who(context)):
            yield response

    async def CancelTurn(
        self, request: chat_service_pb2.CancelTurnRequest, context: Context
    ) -> chat_service_pb2.CancelTurnResponse:
        return await self._turns.cancel_turn(request, *self._who(context))

    async def BatchChat(
        self, request: chat_service_pb2.BatchChatRequest, context: Context
    ) -> AsyncIterator[chat_service_pb2.BatchChatResponse]:
        async with self._batches.batch_chat(request, *self._who(context)) as batch:
            context.add_done_callback(lambda _: batch.cancel())  # type: ignore[arg-type]
            async for response in batch.responses:
                yield response

    async def ListConversations(
        self, request: chat_service_pb2.ListConversationsRequest, context: Context
    ) -> chat_service_pb2.ListConversationsResponse:
        return await self._conversations.list_conversations(request, *self._who(context))

    async def UpdateConversation(
        self, request: chat_service_pb2.UpdateConversationRequest, context: Context
    ) -> chat_service_pb2.UpdateConversationResponse:
        return await self._conversations.update_conversation(request, *self._who(context))

    async def ForkConversation(
        self, request: chat_service_pb2.ForkConversationRequest, context: Context
    ) -> chat_service_pb2.ForkConversationResponse:
        return await self._conversations.fork_conversation(request, *self._who(context))

    def _who(self, context: Context) -> tuple[Caller, Deadline]:
        return self._guard.caller, Deadline.after(context.time_remaining())
