"""Puts the gateway together and serves it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from gateway.access.access import Access, GrpcGuard
from gateway.batch import BatchCalls
from gateway.caller import ANYBODY
from gateway.chat import ChatService
from gateway.chats import Chats
from gateway.config import Config
from gateway.conversation_calls import ConversationCalls
from gateway.memory import keep_freed_memory
from gateway.storage.claims import Claims
from gateway.storage.housekeeping import sweeping
from gateway.storage.media_store import open_media_store
from gateway.storage.store import MEMORY, open_store
from gateway.tiers import llm_backend, vision_backend
from gateway.tiers.layouts import LayoutMemory
from gateway.tiers.llm_backend import LlmBackend, LlmCalls
from gateway.tiers.replicas import open_replicas
from gateway.tiers.retries import RetryBudget
from gateway.tiers.vision_backend import VisionBackend, VisionCalls
from gateway.turn_calls import TurnCalls
from gateway.turns.live_turns import open_turns
from gateway.turns.tiers import Tiers
from gateway.turns.turn_keeper import turn_keeper
from internvl.rpc import run_server
from internvl.telemetry import get_logger
from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc

SERVICE_NAMES = (chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,)

_log = get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Core:
    """What every door opens onto, and who may pass.

    Attributes:
        chats: turns and media.
        turns: turns that go on without their clients.
        conversations: the conversation calls.
        claims: who answers which idempotency key.
        access: who calls, and how much they may.
        guard: the same for gRPC.
    """

    chats: Chats
    turns: TurnCalls
    conversations: ConversationCalls
    claims: Claims
    access: Access
    guard: GrpcGuard

    def register(self, server: grpc.aio.Server) -> None:
        """Add the gRPC door to a server; it must ask `required_guard`."""
        batches = BatchCalls(self.chats, self.access)
        service = ChatService(self.chats, batches, self.turns, self.conversations, self.guard)
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(service, server)

    @property
    def required_guard(self) -> GrpcGuard | None:
        """What the server must ask before every call; None where anybody may call as much as they like."""
        return self.guard if self.access.counts else None


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: an address cannot be bound, or a store or a file of keys cannot be used.
    """
    keep_freed_memory()
    async with core(config) as opened, _http_door(config, opened) as drain_http:
        # What is there now stays: looking through it again for garbage would hold up every stream.
        gc.freeze()
        await run_server(
            config.server,
            opened.register,
            SERVICE_NAMES,
            guard=opened.required_guard,
            on_drain=drain_http,
        )


@asynccontextmanager
async def core(config: Config) -> AsyncIterator[Core]:
    """Open stores, look for replicas and read keys.

    A tier need not be there yet: calls that need it fail with UNAVAILABLE until it is, and the gateway itself
    is ready at once. Its stores stay usable while a tier is away.
    """
    access = Access(config.access)
    async with (
        # Stores first: one that cannot be opened ends the start before anybody is called.
        open_store(config.store, config.kept.most) as store,
        open_media_store(
            config.media, store.media, adopt_for=None if access.required else ANYBODY.tenant
        ) as media,
        open_replicas(vision_backend.PEER, config.vision, VisionCalls, config.routing) as vision,
        open_replicas(llm_backend.PEER, config.llm, LlmCalls, config.routing) as llm,
        sweeping(store.conversations.sweep, media.sweep),
        turn_keeper(store) as keeper,
        open_turns(config.turns) as turns,
    ):
        if config.store != MEMORY and config.media.directory is None:
            _log.warning("--store outlives the media: set --media-dir, or pictures end with this process")
        retries = RetryBudget(config.retries)
        tiers = Tiers(VisionBackend(vision), LlmBackend(llm), media, LayoutMemory(), retries)
        chats = Chats(access, tiers, store, keeper, turns, config.limits)
        yield Core(
            chats,
            TurnCalls(chats, turns),
            ConversationCalls(store.conversations, config.limits, config.kept),
            Claims(store.claims),
            access,
            GrpcGuard(access),
        )


@asynccontextmanager
async def _http_door(config: Config, opened: Core) -> AsyncIterator[Callable[[], None]]:
    """Serve HTTP too, if asked to; yield what makes it drain."""
    if not config.http.listen:
        yield lambda: None
        return
    # Who does not want HTTP does not pay for it.
    from gateway.http.app import HttpApp
    from gateway.http.server import serving_http

    app = HttpApp(opened, config.limits, config.http)
    async with serving_http(app, config.http, config.server.grace_s, config.server.tls) as door:
        yield lambda: door.drain(config.server.drain_delay_s)
