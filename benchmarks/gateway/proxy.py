"""The least that a process between client and language service can be: bytes in, bytes out, over grpc.aio.

    python -m benchmarks.gateway.proxy --listen HOST:PORT --llm HOST:PORT

What it costs is the floor of every gateway that stands on grpc.aio.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from internvl.rpc import ServerConfig, open_direct_channel, run_server
from internvl.v1 import llm_service_pb2

_SERVICE = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


async def serve(listen: str, llm: str) -> None:
    """Pass `Generate` through until SIGTERM."""
    async with open_direct_channel(llm) as channel:
        generate: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            f"/{_SERVICE}/Generate"
        )

        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            call = generate()
            async for frame in requests:
                await call.write(frame)
            await call.done_writing()
            async for response in call:
                yield response

        def register(server: grpc.aio.Server) -> None:
            handler: Any = grpc.stream_stream_rpc_method_handler(handle)
            handlers = grpc.method_handlers_generic_handler(_SERVICE, {"Generate": handler})
            server.add_generic_rpc_handlers((handlers,))

        await run_server(ServerConfig(listen, grace_s=0.0), register, ())


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.proxy")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--llm", required=True)
    args = parser.parse_args()
    asyncio.run(serve(args.listen, args.llm))


if __name__ == "__main__":
    main()
