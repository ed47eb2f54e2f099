"""Processes that are measured from outside: their memory and their processor time."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from deploy.health import is_serving
from deploy.launcher.config import Service
from deploy.launcher.free_ports import free_ports
from deploy.launcher.process import ServiceProcess

_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A server in a process of its own.

    Attributes:
        address: where it serves.
        channel: a connection to it.
        pid: its process id.
    """

    address: str
    channel: grpc.aio.Channel
    pid: int

    def rss_mib(self) -> float:
        """Its memory that lies in RAM."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """Processor time that it has used, in all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def measured(module: str, *flags: str) -> AsyncIterator[Measured]:
    """Run a module that serves where `--listen` says; end it with the block."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command = (sys.executable, "-m", module, "--listen", address, *flags)
    process = ServiceProcess(Service(module, command, address), _drop, queue.Queue())
    try:
        if not await asyncio.to_thread(is_serving, address, "ready", _READY_S):
            raise TimeoutError(f"{module} is not ready")
        async with grpc.aio.insecure_channel(address) as channel:
            yield Measured(address, channel, process.pid)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 5.0)


def _drop(name: str, line: str) -> None:
    """Nobody reads this log."""
