"""`python -m deploy.health`, the health check of the images, against a real server."""

from __future__ import annotations

import asyncio
import socket

from deploy import health
from internvl.rpc import ServerConfig, serving


async def ask(target: str, *service: str) -> int:
    return await asyncio.to_thread(health.main, [target, *service, "--timeout-seconds", "1"])


def test_tells_ready_from_draining_from_absent() -> None:
    async def scenario() -> None:
        async with serving(ServerConfig(listen="127.0.0.1:0", grace_s=0), lambda _: None, []) as running:
            target = f"127.0.0.1:{running.port}"
            assert await ask(target) == 0
            assert await ask(target, "live") == 0
            await running.set_ready(False)
            assert await ask(target) == 1
            assert await ask(target, "live") == 0
            assert await ask(target, "unheard.Of") == 1

    asyncio.run(scenario())


def test_an_empty_port_is_not_serving() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert health.main([f"127.0.0.1:{taken.getsockname()[1]}", "--timeout-seconds", "0.5"]) == 1
