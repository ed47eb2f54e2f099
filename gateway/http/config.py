"""What the HTTP door can be told."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import configargparse

from gateway.flag_types import positive, seconds, some_seconds
from internvl.errors import ConfigError
from internvl.telemetry import split_address

MIB = 2**20

# As long as OpenAI keeps them: nobody forgets them by hand.
_RESPONSE_TTL_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How much of bodies is held, and for how long one may take to arrive.

    Attributes:
        max_bytes: largest body.
        max_total_bytes: all bodies that are held at one time.
        timeout_s: longest time for one body.
    """

    max_bytes: int = 64 * MIB
    max_total_bytes: int = 256 * MIB
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RemoteMediaConfig:
    """Where media may be fetched from.

    Attributes:
        domains: hosts, each exactly as it is or, as `*.example.com`, all below it; none turns fetching off.
        timeout_s: longest time for one file, from the look-up of its host to the last byte.
        max_concurrent: files fetched at a time.
    """

    domains: tuple[str, ...] = ()
    timeout_s: float = 10.0
    max_concurrent: int = 8


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The HTTP door.

    Attributes:
        listen: `host:port`; port 0 picks a free one; empty leaves the door closed.
        cors_origins: web pages that may call it, as `https://example.com`, or `*` for all.
        media: where pictures and films may be fetched from.
        body: how much of requests is held.
        request_timeout_s: longest time for one request.
        header_timeout_s: longest time for the head of a request, and between two requests of a connection.
        max_connections: connections at a time.
        response_ttl_s: how long a response is kept, in seconds; None for as long as conversations are.
    """

    listen: str = ""
    cors_origins: tuple[str, ...] = ()
    media: RemoteMediaConfig = field(default_factory=RemoteMediaConfig)
    body: BodyLimits = field(default_factory=BodyLimits)
    request_timeout_s: float = 3600.0
    header_timeout_s: float = 20.0
    max_connections: int = 4096
    response_ttl_s: float | None = _RESPONSE_TTL_S

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> HttpConfig:
        """Build from the flags that `add_http_flags` declared.

        Raises:
            ConfigError: an address or host that is none; names the flag.
        """
        if args.http_listen:
            split_address(args.http_listen, flag="--http-listen")
        for domain in args.media_domain:
            if (
                "/" in domain
                or ":" in domain
                or not domain.removeprefix("*.").replace("-", "").replace(".", "")
            ):
                raise ConfigError("--media-domain: expected a host such as example.com or *.example.com")
        return cls(
            listen=args.http_listen,
            cors_origins=tuple(args.http_cors_origin),
            media=RemoteMediaConfig(
                domains=tuple(domain.lower() for domain in args.media_domain),
                timeout_s=args.media_timeout_seconds,
            ),
            body=BodyLimits(
                max_bytes=args.http_max_body_mib * MIB,
                # Room for several at once, however large one may be.
                max_total_bytes=max(4 * BodyLimits().max_bytes, 2 * args.http_max_body_mib * MIB),
            ),
            request_timeout_s=args.http_request_timeout_seconds,
            response_ttl_s=args.response_ttl_seconds or None,
        )


def add_http_flags(parser: configargparse.ArgParser) -> None:
    """Declare the flags of the HTTP door."""
    group = parser.add_argument_group("HTTP (an OpenAI-compatible API)")
    group.add_argument(
        "--http-listen",
        default="",
        metavar="HOST:PORT",
        help="address to serve HTTP on, such as 127.0.0.1:8000 (off)",
    )
    group.add_argument(
        "--http-cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web page that may call, such as https://example.com, or * for all; may be repeated (none)",
    )
    group.add_argument(
        "--http-max-body-mib", type=positive, default=64, metavar="MIB", help="largest request"
    )
    group.add_argument(
        "--http-request-timeout-seconds",
        type=some_seconds,
        default=3600.0,
        metavar="S",
        help="longest time for one request",
    )
    group.add_argument(
        "--response-ttl-seconds",
        type=seconds,
        default=_RESPONSE_TTL_S,
        metavar="S",
        help="how long a response of /v1/responses is kept, at most as long as conversations are; "
        "0: as long as they are",
    )
    group.add_argument(
        "--media-domain",
        action="append",
        default=[],
        metavar="HOST",
        help="a host that media may be fetched from by https URL, or *.example.com for all below it; "
        "may be repeated (none)",
    )
    group.add_argument(
        "--media-timeout-seconds",
        type=some_seconds,
        default=10.0,
        metavar="S",
        help="longest time for such a fetch",
    )
