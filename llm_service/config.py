"""Everything the language service can be told, from flags and INTERNVL_LLM_* variables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import configargparse

from internvl.errors import ConfigError
from internvl.model_choice import ModelChoice, add_model_flags
from internvl.model_config import InternVLConfig
from internvl.rpc import ServerConfig, ServerHelpFormatter, add_server_flags, require_positive
from llm_service.engine.limits import EngineLimits

TRAINED_CONTEXT = 8192
"""Tokens of the longest samples InternVL2 was trained with; `max_position_embeddings` promises far more."""

DEFAULT_KV_BYTES = 4 * 2**30

_EPILOG = "Every flag can also be set as INTERNVL_LLM_<FLAG>, for example INTERNVL_LLM_MAX_RUNNING."


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the engine works; None where the model decides. Units as in `EngineLimits`.

    Attributes:
        stream_limit: messages of one answer that may wait to be read.
    """

    context_limit: int | None = None
    kv_budget_tokens: int | None = None
    max_running: int = 16
    queue_limit: int = 64
    step_token_budget: int = 256
    tile_timeout_s: float = 120.0
    stream_limit: int = 1024

    def limits(self, model: InternVLConfig, cache_bytes_per_token: int) -> EngineLimits:
        """Resolve against a loaded model.

        Raises:
            ConfigError: the model has no such positions, or the limits contradict one another.
        """
        positions = model.llm.max_position_embeddings
        context = self.context_limit or min(positions, TRAINED_CONTEXT)
        if context > positions:
            raise ConfigError(f"--context-limit: the model has {positions} positions, got {context}")
        default_budget = max(DEFAULT_KV_BYTES // cache_bytes_per_token, context)
        return EngineLimits(
            context_limit=context,
            kv_budget_tokens=self.kv_budget_tokens or default_budget,
            max_running=self.max_running,
            queue_limit=self.queue_limit,
            step_token_budget=self.step_token_budget,
            tile_timeout_s=self.tile_timeout_s,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole service."""

    model: ModelChoice
    server: ServerConfig
    engine: EngineConfig = EngineConfig()


def parse_config(argv: Sequence[str] | None = None) -> Config:
    """Read flags, and the environment where no flag is given.

    Raises:
        ConfigError: a number out of range, or no model to serve.
    """
    args = _parser().parse_args(argv)
    require_positive(args)
    return Config(
        model=ModelChoice.from_args(args),
        server=ServerConfig.from_args(args),
        engine=EngineConfig(
            context_limit=args.context_limit,
            kv_budget_tokens=args.kv_budget_tokens,
            max_running=args.max_running,
            queue_limit=args.queue_limit,
            step_token_budget=args.step_token_budget,
            tile_timeout_s=args.tile_timeout_seconds,
            stream_limit=args.stream_limit,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = configargparse.ArgParser(
        prog="python -m llm_service",
        description="Serves the language half of an InternVL2 model: prompts and embeddings in, text out.",
        epilog=_EPILOG,
        auto_env_var_prefix="INTERNVL_LLM_",
        add_env_var_help=False,
        formatter_class=ServerHelpFormatter,
    )
    add_model_flags(parser)
    _add_engine_flags(parser)
    add_server_flags(parser, default_listen="127.0.0.1:50052")
    return parser


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    engine = EngineConfig()
    group = parser.add_argument_group("engine")

    def add(flag: str, default: float, unit: str, text: str) -> None:
        group.add_argument(flag, type=type(default), default=default, metavar=unit, help=text)

    group.add_argument(
        "--context-limit",
        type=int,
        metavar="TOKENS",
        help=f"most tokens of prompt and answer together; unset: the model's, at most {TRAINED_CONTEXT}",
    )
    group.add_argument(
        "--kv-budget-tokens",
        type=int,
        metavar="TOKENS",
        help="tokens of KV cache over all running requests; unset: 4 GiB of them, at least one context",
    )
    add("--max-running", engine.max_running, "N", "requests computed at once")
    add(
        "--queue-limit",
        engine.queue_limit,
        "N",
        "requests that may wait for a place",
    )
    add("--step-token-budget", engine.step_token_budget, "TOKENS", "most tokens computed in one step")
    add("--tile-timeout-seconds", engine.tile_timeout_s, "S", "longest time to stand still for a tile")
    add("--stream-limit", engine.stream_limit, "N", "messages of one answer that may wait to be read")
