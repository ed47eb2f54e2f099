"""Logs and metrics that look the same on every tier.

Logs are JSON lines on standard error. They hold sizes, counts, times, ids and reasons, never what a user
wrote or showed.
"""

from __future__ import annotations

import logging
import sys
from typing import cast

import prometheus_client
import structlog

from internvl.errors import ConfigError

LOG_LEVELS = ("debug", "info", "warning", "error")


def configure_logging(level: str) -> None:
    """Write structured logs of this level and above to standard error. Call once, at start-up."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # Looked up for each line: who captures standard error may have put another stream there meanwhile.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `component: name`."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger(component=name))


def serve_metrics(listen: str) -> None:
    """Serve the process's Prometheus metrics over HTTP at `host:port`, from a daemon thread.

    Raises:
        ConfigError: `listen` is not host:port, or the port cannot be bound.
    """
    host, port = split_address(listen, flag="--metrics-listen")
    try:
        prometheus_client.start_http_server(port, addr=host)
    except OSError as error:
        raise ConfigError(f"--metrics-listen: cannot listen on {listen} ({error.strerror})") from None


def split_address(address: str, *, flag: str) -> tuple[str, int]:
    """Split `host:port` (or `[v6]:port`).

    Raises:
        ConfigError: anything else; names the flag.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{flag}: expected HOST:PORT, got {address!r}")
    return host.strip("[]"), int(port)
