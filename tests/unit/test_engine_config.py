"""Flags, environment, and what model and device decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig, parse_model_config
from kernels.paged import KvDtype
from kernels.runtime import CPU, Device
from llm_service.config import DEFAULT_KV_BYTES, EngineConfig, parse_config
from llm_service.engine.limits import EngineLimits
from llm_service.kv_budget import KvBudget
from tests.unit.llm_samples import tiny_config

GIB = 2**30


def model(positions: int) -> InternVLConfig:
    return parse_model_config(tiny_config(1220, max_position_embeddings=positions))


def limits(
    engine: EngineConfig, positions: int = 2048, block_bytes: int = 1, memory: int = GIB
) -> EngineLimits:
    return engine.limits(model(positions), block_bytes, memory)


def parsed(*flags: str) -> EngineConfig:
    return parse_config(["--model", ".", *flags]).engine


def test_flags_reach_their_places(tmp_path: Path) -> None:
    config = parse_config(
        ["--model", str(tmp_path), "--max-running", "3", "--tile-timeout-seconds", "1.5", "--threads", "2"]
    )
    assert (config.model.folder, config.model.device, config.model.threads) == (tmp_path, "cpu", 2)
    assert (config.engine.max_running, config.engine.tile_timeout_s) == (3, 1.5)
    assert config.engine.context_limit is None
    assert config.server.listen == "127.0.0.1:50052"


def test_flags_of_the_engine_reach_its_limits() -> None:
    engine = parsed(
        *("--aging-seconds", "3", "--decode-stretch", "1.5", "--speculate", "4"),
        *("--kv-block-size", "8", "--queue-limit", "9", "--step-token-budget", "99"),
    )
    found = limits(engine)
    assert (found.aging_s, found.decode_stretch, found.draft_tokens) == (3.0, 1.5, 4)
    assert (found.kv_block_size, found.queue_limit, found.step_token_budget) == (8, 9, 99)


def test_switches_are_on_or_off() -> None:
    assert (parsed().prefix_cache, parsed().batch_invariant) == (True, False)
    turned = parsed("--no-prefix-cache", "--batch-invariant")
    assert (turned.prefix_cache, turned.batch_invariant) == (False, True)


def test_the_environment_speaks_where_flags_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_LLM_QUEUE_LIMIT", "7")
    monkeypatch.setenv("INTERNVL_LLM_MAX_RUNNING", "5")
    monkeypatch.setenv("INTERNVL_LLM_KV_BUDGET", "25%")
    monkeypatch.setenv("INTERNVL_LLM_PREFIX_CACHE", "false")
    engine = parsed("--max-running", "9")
    assert (engine.queue_limit, engine.max_running) == (7, 9)
    assert (engine.kv_budget, engine.prefix_cache) == (KvBudget(share=0.25), False)


@pytest.mark.parametrize("flag", ["--max-running", "--queue-limit", "--kv-block-size", "--stream-limit"])
def test_zero_is_refused_by_name(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: must be above 0, got 0"):
        parsed(flag, "0")


def test_only_speculation_may_be_zero_and_nothing_is_negative() -> None:
    assert parsed("--speculate", "0").speculate == 0
    with pytest.raises(ConfigError, match="--speculate: must be at least 0, got -1"):
        parsed("--speculate", "-1")


def test_the_context_is_the_models_but_not_beyond_training() -> None:
    assert limits(EngineConfig(), positions=2048).context_limit == 2048
    assert limits(EngineConfig(), positions=131072).context_limit == 8192
    wider = EngineConfig(context_limit=20_000)
    assert limits(wider, positions=131072).context_limit == 20_000
    with pytest.raises(ConfigError, match="--context-limit: the model has 2048 positions, got 20000"):
        limits(wider, positions=2048)


def test_the_cache_holds_its_default_bytes_and_at_least_one_context() -> None:
    assert limits(EngineConfig(), block_bytes=DEFAULT_KV_BYTES // 5000).kv_blocks == 5000
    assert limits(EngineConfig(), positions=2040, block_bytes=DEFAULT_KV_BYTES).kv_blocks == 255


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 4 * GIB), ("512MiB", GIB // 2), ("1.5 GiB", 3 * GIB // 2), ("64KiB", 65536), ("50%", 5 * GIB)],
)
def test_a_budget_is_an_amount_or_a_share(text: str, expected: int) -> None:
    assert KvBudget.parse(text).bytes_of(10 * GIB) == expected
    found = limits(EngineConfig(kv_budget=KvBudget.parse(text)), block_bytes=4096, memory=10 * GIB)
    assert found.kv_blocks == expected // 4096


@pytest.mark.parametrize("text", ["", "4", "4GB", "0GiB", "-1GiB", "0%", "101%", "half", "1e3MiB", "nan%"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--kv-budget: expected such as 4GiB"):
        KvBudget.parse(text)


def test_a_budget_below_one_block_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="--kv-budget: one block takes 4096 bytes, got 1024"):
        limits(EngineConfig(kv_budget=KvBudget(amount=1024)), block_bytes=4096)


def test_keys_and_values_are_kept_as_the_device_computes_unless_told_otherwise() -> None:
    assert EngineConfig().kv_dtype_on(CPU) is KvDtype.FLOAT32
    assert EngineConfig().kv_dtype_on(Device("gpu", 0, "bfloat16")) is KvDtype.BFLOAT16
    assert parsed("--kv-dtype", "auto").kv_dtype is None
    assert parsed("--kv-dtype", "int8").kv_dtype_on(CPU) is KvDtype.INT8
