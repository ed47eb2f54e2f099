"""How a gateway keeps up with the replicas of a tier."""

from __future__ import annotations

from typing import Any

import grpc

from gateway.tiers.discovery import Target
from gateway.tiers.replicas import RoutingConfig, open_replicas
from tests.unit.event_loop import bounded


class _FailsFirst(Target):
    """A name whose first lookup fails in a way that nobody foresaw."""

    __slots__ = ("_looks",)

    async def resolve(self) -> frozenset[str]:
        if not hasattr(self, "_looks"):
            object.__setattr__(self, "_looks", 1)
            raise KeyError("bug")
        return await super().resolve()


@bounded
async def test_a_replica_is_found_after_a_look_that_failed() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    targets = [_FailsFirst("127.0.0.1", port)]
    config = RoutingConfig(resolve_s=0.01)
    try:
        async with (
            open_replicas("vision service", targets, _channel, config) as replicas,
            replicas.lease(b"key", patience_s=30) as replica,
        ):
            assert replica.address == f"ipv4:127.0.0.1:{port}"
    finally:
        await server.stop(None)


def _channel(channel: grpc.aio.Channel) -> Any:
    return channel
