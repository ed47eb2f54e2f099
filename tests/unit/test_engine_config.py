"""Flags, environment and what the model decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig, parse_model_config
from llm_service.config import DEFAULT_KV_BYTES, EngineConfig, parse_config
from tests.unit.llm_samples import tiny_config


def model(positions: int) -> InternVLConfig:
    return parse_model_config(tiny_config(1220, max_position_embeddings=positions))


def test_flags_reach_their_places(tmp_path: Path) -> None:
    config = parse_config(
        ["--model", str(tmp_path), "--max-running", "3", "--tile-timeout-seconds", "1.5", "--threads", "2"]
    )
    assert (config.model.folder, config.model.device, config.model.threads) == (tmp_path, "cpu", 2)
    assert (config.engine.max_running, config.engine.tile_timeout_s) == (3, 1.5)
    assert config.engine.context_limit is None
    assert config.server.listen == "127.0.0.1:50052"


def test_the_environment_speaks_where_flags_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTERNVL_LLM_QUEUE_LIMIT", "7")
    monkeypatch.setenv("INTERNVL_LLM_MAX_RUNNING", "5")
    engine = parse_config(["--model", str(tmp_path), "--max-running", "9"]).engine
    assert (engine.queue_limit, engine.max_running) == (7, 9)


@pytest.mark.parametrize("flag", ["--max-running", "--queue-limit", "--kv-budget-tokens", "--stream-limit"])
def test_zero_is_refused_by_name(flag: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: must be above 0, got 0"):
        parse_config(["--model", str(tmp_path), flag, "0"])


def test_the_context_is_the_models_but_not_beyond_training() -> None:
    engine = EngineConfig()
    assert engine.limits(model(positions=2048), cache_bytes_per_token=1).context_limit == 2048
    assert engine.limits(model(positions=131072), cache_bytes_per_token=1).context_limit == 8192
    wider = EngineConfig(context_limit=20_000)
    assert wider.limits(model(positions=131072), cache_bytes_per_token=1).context_limit == 20_000
    with pytest.raises(ConfigError, match="--context-limit: the model has 2048 positions, got 20000"):
        wider.limits(model(positions=2048), cache_bytes_per_token=1)


def test_the_cache_holds_its_default_bytes_and_at_least_one_context() -> None:
    engine = EngineConfig()
    assert engine.limits(model(2048), DEFAULT_KV_BYTES // 5000).kv_budget_tokens == 5000
    assert engine.limits(model(2048), DEFAULT_KV_BYTES).kv_budget_tokens == 2048
    assert EngineConfig(kv_budget_tokens=77).limits(model(2048), 1).kv_budget_tokens == 77
