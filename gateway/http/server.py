"""Serves the application with uvicorn, inside the event loop of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.http.app import HttpApp
from gateway.http.config import HttpConfig
from internvl.errors import ConfigError
from internvl.rpc.config import TlsConfig
from internvl.telemetry import get_logger, split_address

_MAX_HEAD_BYTES = 2**15
_BACKLOG = 2048

_log = get_logger("http")


class HttpDoor:
    """A running HTTP server.

    Attributes:
        port: the port it listens on.
    """

    def __init__(self, port: int, app: HttpApp, server: uvicorn.Server) -> None:
        self.port = port
        self._app = app
        self._server = server

    def drain(self, delay_s: float = 0.0) -> None:
        """Say not ready, and after the delay take no more connections; what runs gets its grace period."""
        self._app.ready = False
        asyncio.get_running_loop().call_later(delay_s, self._stop)

    def _stop(self) -> None:
        self._server.should_exit = True


@asynccontextmanager
async def serving_http(
    app: HttpApp, config: HttpConfig, grace_s: float, tls: TlsConfig | None = None
) -> AsyncIterator[HttpDoor]:
    """Serve; on leaving the block, drain and stop.

    Args:
        app: what to serve.
        config: where and how.
        grace_s: time for running requests to finish at the end.
        tls: certificate to serve with; None for plaintext.

    Raises:
        ConfigError: the address cannot be bound.
    """
    listener = _bind(config.listen)
    server = _Server(_settings(app, config, grace_s, tls))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    door = HttpDoor(listener.getsockname()[1], app, server)
    _log.info("ready", listen=config.listen, port=door.port)
    try:
        yield door
    finally:
        door.drain()
        await running


class _Server(uvicorn.Server):
    """Leaves the signals of the process to the gateway."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settings(app: HttpApp, config: HttpConfig, grace_s: float, tls: TlsConfig | None) -> uvicorn.Config:
    class Protocol(PatientProtocol):
        header_timeout_s = config.header_timeout_s

    return uvicorn.Config(
        app.asgi,
        http=Protocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",  # what it has to say holds addresses; the application writes its own log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.max_connections,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever: neither for the head of a request nor for the next one.

    uvicorn itself bounds only the time between two requests, and not while a byte comes now and then.
    """

    header_timeout_s = 20.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self.header_timeout_s, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lose_patience(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _bind(listen: str) -> socket.socket:
    host, port = split_address(listen, flag="--http-listen")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError:
        raise ConfigError(f"--http-listen: cannot listen on {listen}; is the port taken?") from None
