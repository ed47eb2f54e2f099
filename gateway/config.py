"""Everything the gateway can be told, from flags or environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import configargparse

from gateway.conversation_calls import LONGEST_S, Kept
from gateway.media_store import MIB, MediaConfig
from gateway.store import MEMORY
from gateway.wire import RequestLimits
from internvl.errors import ConfigError
from internvl.rpc import ServerConfig, ServerHelpFormatter, add_server_flags

DEFAULT_LISTEN = "127.0.0.1:50050"
DEFAULT_VISION = "127.0.0.1:50051"
DEFAULT_LLM = "127.0.0.1:50052"


@dataclass(frozen=True, slots=True)
class Config:
    """The gateway.

    Attributes:
        server: its own gRPC server.
        vision: gRPC target of the vision tier.
        llm: gRPC target of the language tier.
        media: the media store.
        store: SQLite file of the conversations; `memory` forgets them at the end.
        kept: how long conversations are kept.
        limits: how much one request may hold.
    """

    server: ServerConfig
    vision: str = DEFAULT_VISION
    llm: str = DEFAULT_LLM
    media: MediaConfig = field(default_factory=MediaConfig)
    store: str = MEMORY
    kept: Kept = field(default_factory=Kept)
    limits: RequestLimits = field(default_factory=RequestLimits)


def parse_config(argv: Sequence[str]) -> Config:
    """Build the configuration from the command line.

    Raises:
        ConfigError: values that contradict each other; names the flag.
        SystemExit: `--help`, or a flag that argparse refuses.
    """
    args = _parser().parse_args(argv)
    if args.media_quota_mib < args.max_media_mib:
        raise ConfigError("--media-quota-mib: must be at least --max-media-mib")
    return Config(
        server=ServerConfig.from_args(args),
        vision=args.vision,
        llm=args.llm,
        media=MediaConfig(args.media_dir, args.max_media_mib * MIB, args.media_quota_mib * MIB),
        store=args.store,
        kept=Kept(args.conversation_ttl_seconds or None),
        limits=RequestLimits(max_visuals=args.max_visuals),
    )


def _parser() -> configargparse.ArgParser:
    parser = configargparse.ArgParser(
        auto_env_var_prefix="INTERNVL_GATEWAY_",
        prog="python -m gateway",
        description="The front of the system: keeps conversations and media, and moves visual embeddings "
        "from the vision service to the language service. It computes nothing itself.",
        formatter_class=ServerHelpFormatter,
    )
    tiers = parser.add_argument_group("tiers (any gRPC target, for example dns:///vision:50051)")
    tiers.add_argument("--vision", default=DEFAULT_VISION, metavar="TARGET", help="the vision service")
    tiers.add_argument("--llm", default=DEFAULT_LLM, metavar="TARGET", help="the language service")
    storage = parser.add_argument_group("storage")
    storage.add_argument(
        "--store",
        default=MEMORY,
        metavar="PATH",
        help=f"SQLite file of the conversations; `{MEMORY}` forgets them at the end",
    )
    storage.add_argument(
        "--conversation-ttl-seconds",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="how long a conversation is kept after its last change, by default and at most; 0: for ever",
    )
    storage.add_argument(
        "--media-dir", type=Path, metavar="DIR", help="where media is kept; unset: forgotten at the end"
    )
    storage.add_argument("--max-media-mib", type=_positive, default=64, metavar="MIB", help="largest file")
    storage.add_argument(
        "--media-quota-mib",
        type=_positive,
        default=4096,
        metavar="MIB",
        help="all files together; the least recently used are dropped",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-visuals", type=_positive, default=32, metavar="N", help="pictures and films of one prompt"
    )
    add_server_flags(parser, DEFAULT_LISTEN)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 to {LONGEST_S}")
    return seconds
