"""Everything the gateway can be told, from flags or environment."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import configargparse

from gateway.access.access import AccessConfig
from gateway.access.access_flags import access_from_args, add_access_flags, tls_from_args
from gateway.conversation_calls import Kept
from gateway.flag_types import count, multiple, positive, ratio, seconds
from gateway.http.config import HttpConfig, add_http_flags
from gateway.storage.media_flags import add_media_flags, media_from_args
from gateway.storage.media_store import MIB, MediaConfig
from gateway.storage.store import MEMORY
from gateway.tiers.discovery import Target
from gateway.tiers.replicas import RoutingConfig
from gateway.tiers.retries import RetryConfig
from gateway.turns.live_turns import TurnConfig
from gateway.wire import RequestLimits
from internvl.rpc import ServerConfig, ServerHelpFormatter, add_server_flags

DEFAULT_LISTEN = "127.0.0.1:50050"
DEFAULT_VISION = "127.0.0.1:50051"
DEFAULT_LLM = "127.0.0.1:50052"


@dataclass(frozen=True, slots=True)
class Config:
    """The gateway.

    Attributes:
        server: its own gRPC server.
        vision: where the replicas of the vision tier are.
        llm: where those of the language tier are.
        media: the media store.
        store: SQLite file of the conversations or URL of a Redis server; `memory` forgets them at the end.
        kept: how long conversations are kept.
        limits: how much one request may hold.
        routing: how replicas are found and chosen.
        retries: what is tried again when one is lost.
        turns: turns that go on without their clients.
        access: who may call.
        http: the HTTP door.
    """

    server: ServerConfig
    vision: tuple[Target, ...] = (Target.parse(DEFAULT_VISION),)
    llm: tuple[Target, ...] = (Target.parse(DEFAULT_LLM),)
    media: MediaConfig = field(default_factory=MediaConfig)
    store: str = MEMORY
    kept: Kept = field(default_factory=Kept)
    limits: RequestLimits = field(default_factory=RequestLimits)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    retries: RetryConfig = field(default_factory=RetryConfig)
    turns: TurnConfig = field(default_factory=TurnConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


def parse_config(argv: Sequence[str]) -> Config:
    """Build the configuration from the command line.

    Raises:
        ConfigError: values that contradict each other; names the flag.
        SystemExit: `--help`, or a flag that argparse refuses.
    """
    args = _parser().parse_args(argv)
    return Config(
        server=replace(ServerConfig.from_args(args), tls=tls_from_args(args)),
        vision=_targets(args.vision, DEFAULT_VISION),
        llm=_targets(args.llm, DEFAULT_LLM),
        media=media_from_args(args),
        store=args.store,
        kept=Kept(args.conversation_ttl_seconds or None, args.max_conversations),
        limits=RequestLimits(max_visuals=args.max_visuals),
        routing=RoutingConfig(load_bound=args.load_bound, resolve_s=args.resolve_seconds),
        retries=RetryConfig(args.max_retries, args.retry_ratio, args.failover_wait_seconds),
        turns=TurnConfig(
            most_running=args.max_background_turns,
            longest_s=args.turn_max_seconds,
            keep_s=args.turn_keep_seconds,
            most_bytes=args.turn_keep_mib * MIB,
        ),
        access=access_from_args(args),
        http=HttpConfig.from_args(args),
    )


def _parser() -> configargparse.ArgParser:
    parser = configargparse.ArgParser(
        auto_env_var_prefix="INTERNVL_GATEWAY_",
        prog="python -m gateway",
        description="The front of the system: keeps conversations and media, and moves visual embeddings "
        "from the vision service to the language service. It computes nothing itself.",
        formatter_class=ServerHelpFormatter,
    )
    _add_tier_flags(parser)
    _add_storage_flags(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-visuals", type=positive, default=32, metavar="N", help="pictures and films of one prompt"
    )
    _add_turn_flags(parser)
    add_access_flags(parser)
    add_http_flags(parser)
    add_server_flags(parser, DEFAULT_LISTEN)
    return parser


def _add_storage_flags(parser: configargparse.ArgParser) -> None:
    storage = parser.add_argument_group("storage")
    storage.add_argument(
        "--store",
        default=MEMORY,
        metavar="PATH|URL",
        help="SQLite file of the conversations, or a Redis server that many gateways share "
        f"(redis://HOST:PORT/DB); `{MEMORY}` forgets them at the end",
    )
    storage.add_argument(
        "--conversation-ttl-seconds",
        type=seconds,
        default=0.0,
        metavar="S",
        help="how long a conversation is kept after its last change, by default and at most; 0: for ever",
    )
    storage.add_argument(
        "--max-conversations",
        type=positive,
        default=Kept().most,
        metavar="N",
        help="conversations of each tenant",
    )
    add_media_flags(storage)


def _add_tier_flags(parser: configargparse.ArgParser) -> None:
    tiers = parser.add_argument_group(
        "tiers (HOST:PORT, all addresses of the name count; several by commas or by repeating the flag)"
    )
    add = tiers.add_argument
    add(
        "--vision",
        action="append",
        type=_target_list,
        metavar="TARGET",
        help=f"the vision service (default: {DEFAULT_VISION})",
    )
    add(
        "--llm",
        action="append",
        type=_target_list,
        metavar="TARGET",
        help=f"the language service (default: {DEFAULT_LLM})",
    )
    _add_routing_flags(add)
    _add_retry_flags(add)


def _add_routing_flags(add: Callable[..., object]) -> None:
    routing = RoutingConfig()
    add(
        "--load-bound",
        type=multiple,
        default=routing.load_bound,
        metavar="X",
        help="most requests of one replica, as a multiple of the mean of all",
    )
    add(
        "--resolve-seconds",
        type=seconds,
        default=routing.resolve_s,
        metavar="S",
        help="time between two looks at the names",
    )


def _add_retry_flags(add: Callable[..., object]) -> None:
    retries = RetryConfig()
    add(
        "--max-retries",
        type=count,
        default=retries.per_turn,
        metavar="N",
        help="replicas that one turn may lose before it fails",
    )
    add(
        "--retry-ratio",
        type=ratio,
        default=retries.ratio,
        metavar="X",
        help="retries of all turns, for each turn that begins",
    )
    add(
        "--failover-wait-seconds",
        type=seconds,
        default=retries.failover_wait_s,
        metavar="S",
        help="longest wait for another replica once a turn has lost one",
    )


def _add_turn_flags(parser: configargparse.ArgParser) -> None:
    add = parser.add_argument_group("turns that go on without their clients").add_argument
    turns = TurnConfig()
    add(
        "--max-background-turns",
        type=positive,
        default=turns.most_running,
        metavar="N",
        help="background and resumable turns at the same time",
    )
    add(
        "--turn-max-seconds",
        type=seconds,
        default=turns.longest_s,
        metavar="S",
        help="longest time that one may take",
    )
    add(
        "--turn-keep-seconds",
        type=seconds,
        default=turns.keep_s,
        metavar="S",
        help="time for which its events can be read behind its end",
    )
    add(
        "--turn-keep-mib",
        type=positive,
        default=turns.most_bytes // MIB,
        metavar="MIB",
        help="events of all of them; the oldest are dropped",
    )


def _target_list(text: str) -> tuple[Target, ...]:
    try:
        return tuple(Target.parse(each.strip()) for each in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _targets(given: Sequence[tuple[Target, ...]] | None, default: str) -> tuple[Target, ...]:
    return tuple(target for each in given or () for target in each) or (Target.parse(default),)
