"""What gRPC alone costs here: a `grpc.aio` server that does nothing, for the same messages.

python -m benchmarks.vision.echo ADDRESS
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

_START_S = 30
_SERVICE = "internvl.v1.VisionService"


@contextmanager
def running_echo() -> Iterator[str]:
    """Start one in a process of its own, which ends with the block; its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{Path(folder) / 'echo'}"
        process = subprocess.Popen([sys.executable, "-m", __spec__.name, address])
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=_START_S)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=10)


def echo_upload(messages: list[bytes], answers: list[int]) -> list[bytes]:
    """An upload as long as another, that is answered with messages of these lengths."""
    return [" ".join(map(str, answers)).encode(), *messages[1:]]


async def _plan(request: bytes, context: Any) -> bytes:
    return request


async def _encode(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    lengths = (await anext(requests)).split()
    async for _ in requests:
        pass
    for length in lengths:
        yield bytes(int(length))


async def _serve(address: str) -> None:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Plan": grpc.unary_unary_rpc_method_handler(_plan),
        "Encode": grpc.stream_stream_rpc_method_handler(_encode),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
