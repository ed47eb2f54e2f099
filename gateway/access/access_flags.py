"""The flags that say who may call."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.access.access import AccessConfig
from gateway.access.api_keys import MOST_PRIORITY, Allowance
from gateway.access.tokens import TokenConfig
from gateway.flag_types import positive
from internvl.errors import ConfigError
from internvl.rpc import TlsConfig


def add_access_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument_group("access (without keys and tokens, anybody may call)").add_argument
    add("--api-keys", metavar="FILE", help="API keys in TOML, hashed; env:NAME reads them from a variable")
    add("--jwt-secret-file", type=Path, metavar="FILE", help="secret of JSON web tokens signed with HS256")
    add("--jwt-jwks-file", type=Path, metavar="FILE", help="public keys of tokens with RS256 or ES256")
    add("--jwt-issuer", default="", metavar="ISS", help="issuer that a token must name")
    add("--jwt-audience", default="", metavar="AUD", help="audience that a token must name")
    add("--jwt-tenant-claim", default="tenant", metavar="CLAIM", help="claim that names the tenant")
    add(
        "--requests-per-minute",
        type=positive,
        metavar="N",
        help="calls of one key; what its own entry says comes first (any number)",
    )
    add(
        "--max-concurrent",
        type=positive,
        metavar="N",
        help="calls of one key at the same time, and turns, likewise (any number)",
    )
    add(
        "--max-priority",
        type=_priority,
        metavar="N",
        help=f"greatest priority of one key's turns, {-MOST_PRIORITY} to {MOST_PRIORITY}, likewise (any)",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="certificate to serve with, PEM (plaintext)")
    add("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")


def access_from_args(args: argparse.Namespace) -> AccessConfig:
    """What the flags say about callers.

    Raises:
        ConfigError: flags that do not go together; names one.
    """
    allowance = Allowance(args.requests_per_minute, args.max_concurrent, args.max_priority)
    return AccessConfig(args.api_keys, _tokens_from_args(args), allowance)


def tls_from_args(args: argparse.Namespace) -> TlsConfig | None:
    """What the flags say about encryption.

    Raises:
        ConfigError: one of the two files is missing.
    """
    if args.tls_cert is None and args.tls_key is None:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise ConfigError("--tls-cert: goes with --tls-key")
    return TlsConfig(args.tls_cert, args.tls_key)


def _tokens_from_args(args: argparse.Namespace) -> TokenConfig | None:
    if args.jwt_secret_file is None and args.jwt_jwks_file is None:
        return None
    if args.jwt_secret_file is not None and args.jwt_jwks_file is not None:
        raise ConfigError("--jwt-secret-file: does not go with --jwt-jwks-file")
    for name in ("issuer", "audience"):
        if not getattr(args, f"jwt_{name}"):
            raise ConfigError(
                f"--jwt-{name}: is required with tokens; others' tokens must not open this door"
            )
    return TokenConfig(
        args.jwt_issuer, args.jwt_audience, args.jwt_secret_file, args.jwt_jwks_file, args.jwt_tenant_claim
    )


def _priority(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or abs(int(text)) > MOST_PRIORITY:
        raise argparse.ArgumentTypeError(f"must be a whole number, {-MOST_PRIORITY} to {MOST_PRIORITY}")
    return int(text)
