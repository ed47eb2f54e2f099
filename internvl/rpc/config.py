"""What every server can be told about itself."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import grpc

from internvl.errors import ConfigError
from internvl.telemetry import LOG_LEVELS

MIB = 2**20


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """What a server shows of itself.

    Attributes:
        cert: PEM file of its certificate and those that lead to a known one.
        key: PEM file of the private key.
    """

    cert: Path
    key: Path

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files.

        Raises:
            ConfigError: one cannot be read.
        """
        try:
            return grpc.ssl_server_credentials([(self.key.read_bytes(), self.cert.read_bytes())])
        except OSError as error:
            raise ConfigError(f"--tls-cert, --tls-key: cannot be read ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of one gRPC server.

    Attributes:
        listen: `host:port` or `unix:path`; port 0 picks a free one.
        grace_s: seconds that running calls get to finish when the server stops.
        drain_delay_s: seconds between saying NOT_SERVING and refusing calls; callers look elsewhere.
        metrics_listen: `host:port` of the Prometheus endpoint; empty for none.
        log_level: one of `internvl.telemetry.LOG_LEVELS`.
        max_message_bytes: largest message taken, in bytes. Tiles of the 4B model need 1.5 MiB.
        tls: None for plaintext.
    """

    listen: str
    grace_s: float = 30.0
    drain_delay_s: float = 0.0
    metrics_listen: str = ""
    log_level: str = "info"
    max_message_bytes: int = 8 * MIB
    tls: TlsConfig | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ServerConfig:
        """Build from the flags that `add_server_flags` declared."""
        return cls(
            listen=args.listen,
            grace_s=args.grace_seconds,
            drain_delay_s=args.drain_delay_seconds,
            metrics_listen=args.metrics_listen,
            log_level=args.log_level,
        )


class ServerHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults that there are: not `None`, nor an empty text."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def add_server_flags(parser: argparse.ArgumentParser, default_listen: str) -> None:
    """Declare the flags that every server has."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--listen", default=default_listen, metavar="HOST:PORT", help="address to serve gRPC on"
    )
    group.add_argument(
        "--metrics-listen",
        default="",
        metavar="HOST:PORT",
        help="address to serve Prometheus metrics on (off)",
    )
    group.add_argument(
        "--grace-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="time for running calls to finish on SIGTERM",
    )
    group.add_argument(
        "--drain-delay-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="time between reporting NOT_SERVING and refusing new calls",
    )
    group.add_argument(
        "--log-level", default="info", choices=LOG_LEVELS, help="least severe log line to write"
    )


def require_positive(args: argparse.Namespace, may_be_zero: Collection[str] = ()) -> None:
    """Check that every number among the flags is above 0; only the two waits at the end may always be 0.

    Args:
        may_be_zero: names of other flags that may, as attributes of `args`.

    Raises:
        ConfigError: names the flag.
    """
    for name, value in vars(args).items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        zero_allowed = name in ("grace_seconds", "drain_delay_seconds", *may_be_zero)
        if value < 0 or not (value > 0 or zero_allowed):
            bound = "at least 0" if zero_allowed else "above 0"
            raise ConfigError(f"--{name.replace('_', '-')}: must be {bound}, got {value:g}")
