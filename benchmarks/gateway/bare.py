"""A gateway in a process of its own between stand-ins of both tiers, to see what it alone takes."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.gateway.stand_ins import EchoLlm, TileVision
from deploy.health import is_serving
from deploy.launcher import Ports
from deploy.launcher.config import Service
from deploy.launcher.process import ServiceProcess
from internvl.rpc import ServerConfig, serving
from internvl.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    content_pb2,
)

_READY_S = 30.0


class BareRig:
    """The gateway, its process and its stand-ins."""

    def __init__(self, stub: Any, pid: int, llm: EchoLlm) -> None:
        self._stub = stub
        self._pid = pid
        self._llm = llm
        self._names = itertools.count()

    async def ask(self, tiles: int) -> None:
        """One turn about a new picture of so many tiles; of none, about nothing."""
        shown = [self._picture(tiles)] if tiles else []
        async for _ in self._stub.Chat(_request(*shown, content_pb2.Part(text="look"))):
            pass

    @asynccontextmanager
    async def held(self, count: int) -> AsyncIterator[int]:
        """That many turns that wait for their first word; how many have begun."""
        calls = [self._stub.Chat(_request(content_pb2.Part(text="hold"))) for _ in range(count)]
        streams = [aiter(call) for call in calls]
        begun = await asyncio.gather(*(anext(stream) for stream in streams))
        try:
            yield sum(event.HasField("started") for event in begun)
        finally:
            self._llm.released.set()
            for stream in streams:
                async for _ in stream:
                    pass

    def rss_mib(self) -> float:
        """Memory of the gateway that lies in RAM."""
        status = Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """Processor time that the gateway has used, in all threads."""
        fields = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _picture(self, tiles: int) -> content_pb2.Part:
        source = content_pb2.MediaSource(data=f"{tiles} {next(self._names)}".encode())
        return content_pb2.Part(image=content_pb2.Image(source=source))


@asynccontextmanager
async def bare_gateway() -> AsyncIterator[BareRig]:
    """Start all three; end them with the block."""
    quick, llm = ServerConfig("127.0.0.1:0", grace_s=0.0), EchoLlm()

    async with (
        serving(quick, TileVision().register, ()) as vision,
        serving(quick, llm.register, ()) as language,
    ):
        address = f"127.0.0.1:{Ports.free().gateway}"
        tiers = ("--vision", f"127.0.0.1:{vision.port}", "--llm", f"127.0.0.1:{language.port}")
        command = (sys.executable, "-m", "gateway", "--listen", address, "--log-level", "warning", *tiers)
        process = ServiceProcess(Service("gateway", command, address), _drop, queue.Queue())
        try:
            await asyncio.to_thread(_wait_ready, address)
            async with grpc.aio.insecure_channel(address) as channel:
                yield BareRig(chat_service_pb2_grpc.ChatServiceStub(channel), process.pid, llm)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 5.0)


def _wait_ready(address: str) -> None:
    if not is_serving(address, "ready", _READY_S):
        raise TimeoutError("the gateway is not ready")


def _request(*parts: content_pb2.Part) -> chat_service_pb2.ChatRequest:
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts)
    return chat_service_pb2.ChatRequest(messages=[message])


def _drop(name: str, line: str) -> None:
    """Nobody reads this log."""
