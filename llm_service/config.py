"""Everything the language service can be told, from flags and INTERNVL_LLM_* variables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import configargparse

from internvl.checkpoint.weight_format import WeightFormat
from internvl.errors import ConfigError
from internvl.model_choice import ModelChoice, add_model_flags
from internvl.model_config import InternVLConfig
from internvl.rpc import ServerConfig, ServerHelpFormatter, add_server_flags, require_positive
from kernels.paged import KvDtype
from kernels.runtime import Device
from llm_service.engine.limits import EngineLimits, blocks_for
from llm_service.kv_budget import KvBudget

TRAINED_CONTEXT = 8192
"""Tokens of the longest samples InternVL2 was trained with; `max_position_embeddings` promises far more."""

DEFAULT_KV_BYTES = 4 * 2**30

KV_DTYPES = {"fp32": KvDtype.FLOAT32, "bf16": KvDtype.BFLOAT16, "int8": KvDtype.INT8}
"""What `--kv-dtype` may say, beside `auto`."""

_EPILOG = "Every flag can also be set as INTERNVL_LLM_<FLAG>, for example INTERNVL_LLM_MAX_RUNNING."


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the engine works; None where model and device decide. Units as in `EngineLimits`.

    Attributes:
        kv_budget: memory for the key-value cache.
        kv_dtype: how keys and values are kept.
        prefix_cache: whether keys and values of earlier requests are reused.
        batch_invariant: whether an answer never depends on what is computed beside it, down to the last bit.
        stream_limit: messages of one answer that may wait to be read.
    """

    context_limit: int | None = None
    kv_budget: KvBudget | None = None
    kv_dtype: KvDtype | None = None
    kv_block_size: int = 8
    prefix_cache: bool = True
    speculate: int = 0
    batch_invariant: bool = False
    max_running: int = 32
    queue_limit: int = 64
    aging_s: float = 10.0
    step_token_budget: int = 256
    decode_stretch: float = 2.5
    tile_timeout_s: float = 120.0
    stream_limit: int = 1024

    def kv_dtype_on(self, device: Device) -> KvDtype:
        """How keys and values are kept there: bf16 beside small weights, else as it computes; or as told."""
        if self.kv_dtype is not None:
            return self.kv_dtype
        return KvDtype(device.dtype) if device.weights is WeightFormat.FLOAT32 else KvDtype.BFLOAT16

    def limits(self, model: InternVLConfig, block_bytes: int, device_memory: int) -> EngineLimits:
        """Resolve against a loaded model and a device with so many bytes of memory.

        Raises:
            ConfigError: the model has no such positions, or the limits contradict one another.
        """
        positions = model.llm.max_position_embeddings
        context = self.context_limit or min(positions, TRAINED_CONTEXT)
        if context > positions:
            raise ConfigError(f"--context-limit: the model has {positions} positions, got {context}")
        return EngineLimits(
            context_limit=context,
            kv_blocks=self._blocks(context, block_bytes, device_memory),
            kv_block_size=self.kv_block_size,
            prefix_cache=self.prefix_cache,
            max_running=self.max_running,
            queue_limit=self.queue_limit,
            aging_s=self.aging_s,
            step_token_budget=self.step_token_budget,
            decode_stretch=self.decode_stretch,
            draft_tokens=self.speculate,
            tile_timeout_s=self.tile_timeout_s,
        )

    def _blocks(self, context: int, block_bytes: int, device_memory: int) -> int:
        if self.kv_budget is None:
            return max(DEFAULT_KV_BYTES // block_bytes, blocks_for(context, self.kv_block_size))
        budget = self.kv_budget.bytes_of(device_memory)
        if budget < block_bytes:
            raise ConfigError(f"--kv-budget: one block takes {block_bytes} bytes, got {budget}")
        return budget // block_bytes


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
    require_positive(args, may_be_zero=("speculate",))
    return Config(
        model=ModelChoice.from_args(args),
        server=ServerConfig.from_args(args),
        engine=EngineConfig(
            context_limit=args.context_limit,
            kv_budget=None if args.kv_budget is None else KvBudget.parse(args.kv_budget),
            kv_dtype=KV_DTYPES.get(args.kv_dtype),
            kv_block_size=args.kv_block_size,
            prefix_cache=args.prefix_cache,
            speculate=args.speculate,
            batch_invariant=args.batch_invariant,
            max_running=args.max_running,
            queue_limit=args.queue_limit,
            aging_s=args.aging_seconds,
            step_token_budget=args.step_token_budget,
            decode_stretch=args.decode_stretch,
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
    add("--max-running", engine.max_running, "N", "answers computed at once")
    add("--queue-limit", engine.queue_limit, "N", "requests that may wait for a place")
    add("--aging-seconds", engine.aging_s, "S", "time in the queue that is worth one level of priority")
    add("--step-token-budget", engine.step_token_budget, "TOKENS", "most tokens computed in one step")
    add("--decode-stretch", engine.decode_stretch, "X", "how much prefill may slow the decodes beside it")
    add("--tile-timeout-seconds", engine.tile_timeout_s, "S", "longest time to stand still for a tile")
    add("--stream-limit", engine.stream_limit, "N", "messages of one answer that may wait to be read")
    add("--speculate", engine.speculate, "K", "most tokens guessed ahead by prompt lookup; 0 is off")
    group.add_argument(
        "--batch-invariant",
        action=argparse.BooleanOptionalAction,
        default=engine.batch_invariant,
        help="make every answer independent of its neighbours, down to the last bit; slower",
    )
    _add_cache_flags(parser)


def _add_cache_flags(parser: argparse.ArgumentParser) -> None:
    engine = EngineConfig()
    group = parser.add_argument_group("key-value cache")
    group.add_argument(
        "--kv-budget",
        metavar="SIZE",
        help="memory such as 4GiB, or a share of the device's such as 50%%; unset: 4GiB or one context",
    )
    group.add_argument(
        "--kv-dtype",
        choices=("auto", *KV_DTYPES),
        default="auto",
        help="how keys and values are kept; auto: bf16, or fp32 with weights in fp32",
    )
    group.add_argument(
        "--kv-block-size",
        type=int,
        default=engine.kv_block_size,
        metavar="TOKENS",
        help="tokens of one block",
    )
    group.add_argument(
        "--prefix-cache",
        action=argparse.BooleanOptionalAction,
        default=engine.prefix_cache,
        help="reuse keys and values of earlier requests",
    )
