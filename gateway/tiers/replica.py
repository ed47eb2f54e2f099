"""One replica of a tier: its connection, its health and what it works on."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from internvl.errors import ServingError, Unavailable
from internvl.rpc import error_from_rpc, open_direct_channel

C = TypeVar("C")

# Between two attempts to watch a replica that cannot be reached.
_RETRY_S, _MOST_RETRY_S = 0.1, 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING


class Health(enum.Enum):
    """What is known of a replica."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    AWAY = "away"


class ReplicaLost(Unavailable):
    """A replica went away, or says that it is about to; another one can do its work.

    Attributes:
        address: of the replica; for routing alone, never for messages.
    """

    def __init__(self, error: Unavailable, address: str) -> None:
        super().__init__(error.message, metadata=error.metadata)
        self.reason = error.reason
        self.address = address


class Replica(Generic[C]):
    """A replica and its one connection.

    Attributes:
        address: its gRPC address.
        peer: what to call its tier in messages.
        calls: its calls, as the tier's backend wants them.
        health: what its health service said last.
        in_flight: calls under way.
    """

    def __init__(
        self,
        address: str,
        peer: str,
        connect: Callable[[grpc.aio.Channel], C],
        changed: Callable[[], None],
    ) -> None:
        """Connect and begin to watch its health; `changed` is called whenever that may matter."""
        self.address = address
        self.peer = peer
        self.health = Health.UNKNOWN
        self.in_flight = 0
        self._channel = open_direct_channel(address)
        self.calls = connect(self._channel)
        self._changed = changed
        self._doubted = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())

    def error(self, rpc_error: grpc.RpcError) -> ServingError:
        """What a failed call failed with: `ReplicaLost` if another replica may do better."""
        error = error_from_rpc(rpc_error, self.peer)
        if not isinstance(error, Unavailable):
            return error
        if self.health is Health.SERVING:
            self._set(Health.UNKNOWN)
        self._doubted.set()
        return ReplicaLost(error, self.address)

    def begin(self) -> None:
        """Note a call."""
        self.in_flight += 1

    def end(self) -> None:
        """Note the end of a call."""
        self.in_flight -= 1

    async def close(self) -> None:
        """Stop watching and hang up; calls under way are cancelled."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self._channel.close()

    async def _watch(self) -> None:
        delay = _RETRY_S
        while True:
            self._doubted.clear()
            if await self._follow():
                delay = _RETRY_S
            if not self._doubted.is_set():
                self._set(Health.AWAY)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _MOST_RETRY_S)

    async def _follow(self) -> bool:
        """Follow its health until that ends or a call casts doubt on it; whether it said anything."""
        # The published type stubs leave the generated methods out.
        stub = health_pb2_grpc.HealthStub(self._channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(service="ready"))  # type: ignore[attr-defined]
        doubt = asyncio.create_task(self._doubted.wait())
        heard = False
        try:
            while True:
                read = asyncio.ensure_future(call.read())
                await asyncio.wait([read, doubt], return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    return heard
                status = read.result()
                if status is grpc.aio.EOF:
                    return heard
                heard = True
                self._set(Health.SERVING if status.status == _SERVING else Health.AWAY)
        except grpc.RpcError as error:
            if cast(grpc.Call, error).code() is not grpc.StatusCode.UNIMPLEMENTED:
                return heard
            # It answers, but has no health service: as good as it gets.
            self._set(Health.SERVING)
            await self._doubted.wait()
            return True
        finally:
            doubt.cancel()
            call.cancel()

    def _set(self, health: Health) -> None:
        if health is not self.health:
            self.health = health
            self._changed()
