"""Puts the gateway together and serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from gateway import llm_backend, vision_backend
from gateway.chat import ChatService
from gateway.chats import Chats
from gateway.config import Config
from gateway.conversation_calls import ConversationCalls
from gateway.housekeeping import sweeping
from gateway.layouts import LayoutMemory
from gateway.live_turns import open_turns
from gateway.llm_backend import LlmBackend, LlmCalls
from gateway.media_store import open_media_store
from gateway.replicas import open_replicas
from gateway.retries import RetryBudget
from gateway.store import open_store
from gateway.turn import Tiers
from gateway.turn_calls import TurnCalls
from gateway.turn_keeper import turn_keeper
from gateway.vision_backend import VisionBackend, VisionCalls
from internvl.rpc import run_server
from internvl.rpc.server import Register
from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc

SERVICE_NAMES = (chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,)


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: an address cannot be bound, or the store cannot be opened.
    """
    async with assembled(config) as register:
        await run_server(config.server, register, SERVICE_NAMES)


@asynccontextmanager
async def assembled(config: Config) -> AsyncIterator[Register]:
    """Open stores and look for replicas, and yield what adds the service to a server.

    A tier need not be there yet: calls that need it fail with UNAVAILABLE until it is, and the gateway itself
    is ready at once. Its stores stay usable while a tier is away.
    """
    async with (
        open_replicas(vision_backend.PEER, config.vision, VisionCalls, config.routing) as vision,
        open_replicas(llm_backend.PEER, config.llm, LlmCalls, config.routing) as llm,
        open_media_store(config.media) as media,
        open_store(config.store) as store,
        sweeping(store.conversations.sweep),
        turn_keeper(store) as keeper,
        open_turns(config.turns) as turns,
    ):
        retries = RetryBudget(config.retries)
        tiers = Tiers(VisionBackend(vision), LlmBackend(llm), media, LayoutMemory(), retries)
        chats = Chats(tiers, store, keeper, turns, config.limits)
        service = ChatService(
            chats,
            TurnCalls(chats, turns),
            ConversationCalls(store.conversations, config.limits, config.kept),
        )

        def register(server: grpc.aio.Server) -> None:
            chat_service_pb2_grpc.add_ChatServiceServicer_to_server(service, server)

        yield register
