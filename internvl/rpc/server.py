"""Server assembly: the same health, reflection, limits and drain on every tier."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_health.v1.health import aio as aio_health
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_SERVICE
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from internvl.errors import ConfigError
from internvl.rpc.config import ServerConfig
from internvl.rpc.interceptor import CallInterceptor, Guard
from internvl.telemetry import get_logger, serve_metrics

LIVE, READY = "live", "ready"

_log = get_logger("server")

Register = Callable[[grpc.aio.Server], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A started server.

    Attributes:
        port: the port it listens on; 0 for a unix socket.
    """

    port: int
    server: grpc.aio.Server
    health: aio_health.HealthServicer
    service_names: tuple[str, ...]

    async def set_ready(self, ready: bool) -> None:
        """Report SERVING or NOT_SERVING for everything but `live`."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", READY, *self.service_names):
            await self.health.set(name, status)

    async def stop(self, config: ServerConfig) -> None:
        """Drain: NOT_SERVING first, then refuse new calls, then give running ones their grace."""
        await self.set_ready(False)
        await asyncio.sleep(config.drain_delay_s)
        await self.server.stop(config.grace_s)


@asynccontextmanager
async def serving(
    config: ServerConfig, register: Register, service_names: Sequence[str], *, guard: Guard | None = None
) -> AsyncIterator[Running]:
    """Start a server; on leaving the block, drain and stop it.

    Args:
        config: where and how to serve.
        register: adds the servicers to the server.
        service_names: full names of the services, for health and reflection.
        guard: lets every call in but those for health; with it there is no reflection.

    Raises:
        ConfigError: the address cannot be bound, or the files for TLS cannot be used.
    """
    server = grpc.aio.server(interceptors=[CallInterceptor(guard)], options=_options(config))
    health = aio_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    register(server)
    if guard is None:
        enable_server_reflection((*service_names, HEALTH_SERVICE, REFLECTION_SERVICE), server)
    credentials = config.tls.credentials() if config.tls is not None else None
    try:
        port = (
            server.add_insecure_port(config.listen)
            if credentials is None
            else server.add_secure_port(config.listen, credentials)
        )
    except RuntimeError:
        raise ConfigError(f"--listen: cannot listen on {config.listen}; is the port taken?") from None
    await server.start()
    running = Running(port, server, health, tuple(service_names))
    await health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
    await running.set_ready(True)
    try:
        yield running
    finally:
        await running.stop(config)


def _nothing() -> None:
    """What else there is to drain: nothing."""


async def run_server(
    config: ServerConfig,
    register: Register,
    service_names: Sequence[str],
    *,
    guard: Guard | None = None,
    on_drain: Callable[[], None] = _nothing,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the grace period at once.

    Args:
        config: where and how to serve.
        register: adds the servicers to the server.
        service_names: full names of the services, for health and reflection.
        on_drain: called when draining begins, for another door of the same process.

    Raises:
        ConfigError: an address cannot be bound.
    """
    if config.metrics_listen:
        serve_metrics(config.metrics_listen)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(config, register, service_names, guard=guard) as running:
        _log.info("ready", listen=config.listen, port=running.port)
        await stop.wait()
        _log.info("draining", grace_s=config.grace_s)
        on_drain()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: asyncio.ensure_future(running.server.stop(0)))
    _log.info("stopped")


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # Two servers on one port would silently share the calls.
        ("grpc.so_reuseport", 0),
        # Clients resolve replicas anew only when a connection ends; the grace is longer than any stream.
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", 3_600_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
