"""A gateway between stand-ins for both tiers, which compute nothing, and a proxy to compare it with."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.gateway.processes import Measured, measured
from benchmarks.gateway.stand_ins import TILE_BYTES, EchoLlm, TileVision
from internvl.rpc import ServerConfig, serving
from internvl.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    content_pb2,
    llm_service_pb2,
    llm_service_pb2_grpc,
)


class BareRig:
    """The gateway, a bare proxy and their stand-ins.

    Attributes:
        gateway: the process of the gateway.
        proxy: the process of the proxy.
    """

    def __init__(self, gateway: Measured, proxy: Measured, llm: EchoLlm) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self._chat = chat_service_pb2_grpc.ChatServiceStub(gateway.channel)
        self._generate = llm_service_pb2_grpc.LlmServiceStub(proxy.channel)
        self._llm = llm
        self._names = itertools.count()

    async def ask(self, tiles: int) -> None:
        """One turn about a new picture of so many tiles; of none, about nothing."""
        shown = [self._picture(tiles)] if tiles else []
        async for _ in self._chat.Chat(_request(*shown, content_pb2.Part(text="look"))):
            pass

    async def say(self, tokens: int) -> None:
        """One turn about nothing, with an answer of so many tokens."""
        async for _ in self._chat.Chat(_request(content_pb2.Part(text=f"say {tokens}"))):
            pass

    async def send_by_proxy(self, tiles: int) -> None:
        """So many tiles through the proxy to the language service."""
        layout = content_pb2.VisualLayout(visual_id="picture", tiles=tiles)
        parts = [llm_service_pb2.PromptPart(visual=layout), llm_service_pb2.PromptPart(text="look")]
        tile = content_pb2.Tile(visual_id="picture")
        tile.embeddings.data = bytes(TILE_BYTES)
        frames = itertools.repeat(llm_service_pb2.GenerateRequest(tile=tile), tiles)
        async for _ in self._generate.Generate(itertools.chain([_opening(*parts)], frames)):
            pass

    async def say_by_proxy(self, tokens: int) -> None:
        """The same answer through the proxy."""
        opening = _opening(llm_service_pb2.PromptPart(text=f"say {tokens}"))
        async for _ in self._generate.Generate(iter([opening])):
            pass

    @asynccontextmanager
    async def held(self, count: int) -> AsyncIterator[int]:
        """That many turns that wait for their first word; how many have begun."""
        calls = [self._chat.Chat(_request(content_pb2.Part(text="hold"))) for _ in range(count)]
        streams = [aiter(call) for call in calls]
        begun = await asyncio.gather(*(anext(stream) for stream in streams))
        try:
            yield sum(event.HasField("started") for event in begun)
        finally:
            self._llm.released.set()
            for stream in streams:
                async for _ in stream:
                    pass

    def _picture(self, tiles: int) -> content_pb2.Part:
        source = content_pb2.MediaSource(data=f"{tiles} {next(self._names)}".encode())
        return content_pb2.Part(image=content_pb2.Image(source=source))


@asynccontextmanager
async def bare_gateway() -> AsyncIterator[BareRig]:
    """Start all of them; end them with the block."""
    quick, llm = ServerConfig("127.0.0.1:0", grace_s=0.0), EchoLlm()
    async with (
        serving(quick, TileVision().register, ()) as vision,
        serving(quick, llm.register, ()) as language,
    ):
        speech = ("--llm", f"127.0.0.1:{language.port}")
        sight = ("--vision", f"127.0.0.1:{vision.port}")
        async with (
            measured("gateway", *sight, *speech, "--log-level", "warning") as gateway,
            measured("benchmarks.gateway.proxy", *speech) as proxy,
        ):
            yield BareRig(gateway, proxy, llm)


def _request(*parts: content_pb2.Part) -> chat_service_pb2.ChatRequest:
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts)
    return chat_service_pb2.ChatRequest(messages=[message])


def _opening(*parts: llm_service_pb2.PromptPart) -> llm_service_pb2.GenerateRequest:
    message = llm_service_pb2.PromptMessage(role=content_pb2.ROLE_USER, parts=parts)
    return llm_service_pb2.GenerateRequest(open=llm_service_pb2.GenerateOpen(messages=[message]))
