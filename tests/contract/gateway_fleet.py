"""A gateway over several replicas of both stand-ins, any of which a test may stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc

from gateway.config import Config
from gateway.server import SERVICE_NAMES, core
from gateway.tiers.discovery import Target
from gateway.tiers.replicas import RoutingConfig
from gateway.tiers.retries import RetryConfig
from internvl.rpc import Running, ServerConfig, serving
from internvl.telemetry import configure_logging
from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc
from tests.contract.fake_llm import FakeLlm
from tests.contract.fake_vision import FakeVision
from tests.contract.gateway_tiers import add_llm, add_vision, chat_request

QUICK = ServerConfig("127.0.0.1:0", grace_s=0.0)


@dataclass
class Fleet:
    """The replicas, their servers and a stub of the gateway; the lists of a tier go together."""

    visions: list[FakeVision]
    llms: list[FakeLlm]
    vision_servers: list[Running]
    llm_servers: list[Running]
    chat: Any = None

    async def events(self, *parts: Any, **fields: Any) -> list[chat_service_pb2.ChatResponse]:
        """A turn of one message, to its end."""
        return [event async for event in self.chat.Chat(chat_request(*parts, **fields))]

    def llm_at_work(self) -> int:
        """Which language replica has a call under way."""
        return next(number for number, llm in enumerate(self.llms) if llm.active)

    def vision_at_work(self) -> int:
        """Which vision replica has a call under way."""
        return next(number for number, vision in enumerate(self.visions) if vision.active)


@asynccontextmanager
async def gateway_fleet(
    visions: int = 1, llms: int = 1, *, retries: RetryConfig | None = None, resolve_s: float = 5.0
) -> AsyncIterator[Fleet]:
    """Serve so many replicas and a gateway on free ports."""
    configure_logging("error")
    fleet = Fleet([FakeVision() for _ in range(visions)], [FakeLlm() for _ in range(llms)], [], [])
    async with AsyncExitStack() as stack:
        for vision in fleet.visions:
            fleet.vision_servers.append(await stack.enter_async_context(served_vision(vision)))
        for llm in fleet.llms:
            fleet.llm_servers.append(await stack.enter_async_context(served_llm(llm)))
        config = Config(
            QUICK,
            vision=targets(fleet.vision_servers),
            llm=targets(fleet.llm_servers),
            routing=RoutingConfig(resolve_s=resolve_s),
            retries=retries or RetryConfig(),
        )
        fleet.chat = await stack.enter_async_context(gateway(config))
        yield fleet


@asynccontextmanager
async def gateway(config: Config) -> AsyncIterator[Any]:
    """A gateway, and a stub of it."""
    async with (
        core(config) as opened,
        serving(QUICK, opened.register, SERVICE_NAMES) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        yield chat_service_pb2_grpc.ChatServiceStub(channel)


def served_vision(vision: FakeVision, port: int = 0) -> Any:
    """Serve a vision stand-in inside a block."""
    return serving(replace(QUICK, listen=f"127.0.0.1:{port}"), lambda server: add_vision(vision, server), ())


def served_llm(llm: FakeLlm, port: int = 0) -> Any:
    """Serve a language stand-in inside a block."""
    return serving(replace(QUICK, listen=f"127.0.0.1:{port}"), lambda server: add_llm(llm, server), ())


def targets(servers: Sequence[Running]) -> tuple[Target, ...]:
    return tuple(Target("127.0.0.1", server.port) for server in servers)
