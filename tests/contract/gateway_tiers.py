"""Stand-ins for both model tiers, served over real gRPC, and a gateway in front of them.

They follow the contract but compute nothing, so a test can hold them back, break them, and look at every byte
that passed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from gateway.config import Config
from gateway.server import SERVICE_NAMES, Core, core
from gateway.tiers.discovery import Target
from internvl.rpc import Running, ServerConfig, serving
from internvl.telemetry import configure_logging
from internvl.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    content_pb2,
    llm_service_pb2,
    vision_service_pb2_grpc,
)
from tests.contract.fake_llm import FakeLlm
from tests.contract.fake_vision import FakeVision


@dataclass
class Stack:
    """A gateway over both stand-ins.

    Attributes:
        chat: stub of the gateway.
        core: what the gateway's doors open onto.
    """

    vision: FakeVision = field(default_factory=FakeVision)
    llm: FakeLlm = field(default_factory=FakeLlm)
    address: str = ""
    chat: Any = None
    core: Core | None = None
    vision_server: Running | None = None
    llm_server: Running | None = None


@asynccontextmanager
async def gateway_stack(config: Config | None = None) -> AsyncIterator[Stack]:
    """Serve both stand-ins and a gateway on free ports."""
    configure_logging("warning")
    stack = Stack()
    quick = ServerConfig("127.0.0.1:0", grace_s=0.0)
    async with (
        serving(quick, lambda server: add_vision(stack.vision, server), ()) as vision,
        serving(quick, lambda server: add_llm(stack.llm, server), ()) as llm,
    ):
        stack.vision_server, stack.llm_server = vision, llm
        config = replace(
            config or Config(quick),
            server=quick if config is None else replace(quick, tls=config.server.tls),
            vision=(Target("127.0.0.1", vision.port),),
            llm=(Target("127.0.0.1", llm.port),),
        )
        async with (
            core(config) as opened,
            serving(config.server, opened.register, SERVICE_NAMES, guard=opened.required_guard) as gateway,
        ):
            stack.core = opened
            stack.address = f"127.0.0.1:{gateway.port}"
            async with grpc.aio.insecure_channel(stack.address) as channel:
                stack.chat = chat_service_pb2_grpc.ChatServiceStub(channel)
                yield stack


def user(*parts: str | bytes | content_pb2.Part) -> content_pb2.Message:
    """A user message: texts, pictures as bytes, or ready parts."""
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[_part(part) for part in parts])


def chat_request(*parts: str | bytes | content_pb2.Part, **fields: Any) -> chat_service_pb2.ChatRequest:
    """A turn of one user message."""
    return chat_service_pb2.ChatRequest(messages=[user(*parts)], **fields)


def _part(part: str | bytes | content_pb2.Part) -> content_pb2.Part:
    if isinstance(part, content_pb2.Part):
        return part
    if isinstance(part, str):
        return content_pb2.Part(text=part)
    return content_pb2.Part(image=content_pb2.Image(source=content_pb2.MediaSource(data=part)))


def add_vision(vision: FakeVision, server: grpc.aio.Server) -> None:
    """Register the vision stand-in."""
    vision_service_pb2_grpc.add_VisionServiceServicer_to_server(vision, server)


def add_llm(llm: FakeLlm, server: grpc.aio.Server) -> None:
    """Register by hand: the generated function would decode the requests of `Generate`."""
    handlers = {
        "Generate": grpc.stream_stream_rpc_method_handler(
            llm.generate, response_serializer=llm_service_pb2.GenerateResponse.SerializeToString
        ),
        "CountTokens": grpc.unary_unary_rpc_method_handler(
            llm.count_tokens,
            request_deserializer=llm_service_pb2.CountTokensRequest.FromString,
            response_serializer=llm_service_pb2.CountTokensResponse.SerializeToString,
        ),
        "ModelInfo": grpc.unary_unary_rpc_method_handler(
            llm.model_info,
            request_deserializer=llm_service_pb2.ModelInfoRequest.FromString,
            response_serializer=llm_service_pb2.ModelInfoResponse.SerializeToString,
        ),
    }
    name = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


async def until(condition: Callable[[], object]) -> None:
    """Wait until something that has no event of its own holds; a hang fails within 10 seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def bounded(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on a loop of its own; a hang fails within 30 seconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run
