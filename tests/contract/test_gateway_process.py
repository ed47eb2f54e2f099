"""The gateway as a program: flags, environment, refusals, and what it does not import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.access.api_keys import Allowance
from gateway.config import parse_config
from gateway.tiers.discovery import Target
from internvl.errors import ConfigError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_flags_become_the_configuration(tmp_path: Path) -> None:
    config = parse_config(
        [
            *("--vision", "dns:///vision:50051", "--llm", "a:1,b:2", "--llm", "[::1]:3"),
            *("--listen", "0.0.0.0:1"),
            *("--store", str(tmp_path / "chat.db"), "--media-dir", str(tmp_path), "--max-media-mib", "2"),
            *("--media-quota-mib", "8", "--max-visuals", "3"),
        ]
    )
    assert (config.vision, config.llm, config.server.listen) == (
        (Target("vision", 50051),),
        (Target("a", 1), Target("b", 2), Target("::1", 3)),
        "0.0.0.0:1",
    )
    assert (config.store, config.media.directory) == (str(tmp_path / "chat.db"), str(tmp_path))
    assert (config.media.max_file_bytes, config.media.quota_bytes) == (2 * 2**20, 8 * 2**20)
    assert config.limits.max_visuals == 3


def test_defaults_keep_nothing_after_the_end() -> None:
    config = parse_config([])
    assert (config.store, config.media.directory) == ("memory", None)
    assert config.kept.time_to_live_s is None
    assert config.server.listen == "127.0.0.1:50050"


def test_environment_sets_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_GATEWAY_MAX_VISUALS", "5")
    assert parse_config([]).limits.max_visuals == 5
    assert parse_config(["--max-visuals", "6"]).limits.max_visuals == 6


def test_quota_below_one_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="--media-quota-mib"):
        parse_config(["--max-media-mib", "10", "--media-quota-mib", "9"])


def test_allowance_of_every_key_has_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--requests-per-minute", "60", "--max-concurrent", "4", "--max-priority", "-1"]
    assert parse_config(flags).access.allowance == Allowance(60, 4, -1)
    with pytest.raises(SystemExit):
        parse_config(["--max-priority", "11"])
    assert "--max-priority: must be a whole number, -10 to 10" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_number_that_makes_no_sense_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(["--max-visuals", number])
    assert "--max-visuals: must be a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("--media-quota-mib", "1.5", "a whole number of at least 1"),
        ("--requests-per-minute", "0", "a whole number of at least 1"),
        ("--http-max-body-mib", "-1", "a whole number of at least 1"),
        ("--max-retries", "-1", "a whole number of at least 0"),
        ("--turn-max-seconds", "nan", "a number of seconds, 0 to 315360000"),
        ("--conversation-ttl-seconds", "1e9", "a number of seconds, 0 to 315360000"),
        ("--http-request-timeout-seconds", "0", "a number of seconds above 0"),
        ("--media-timeout-seconds", "soon", "a number of seconds above 0"),
        ("--retry-ratio", "inf", "a number of at least 0"),
        ("--load-bound", "0.9", "a number of at least 1"),
    ],
)
def test_flag_says_what_it_would_have_taken(
    flag: str, value: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_config([flag, value])
    assert f"{flag}: must be {wanted}" in capsys.readouterr().err


def test_help_names_every_flag() -> None:
    shown = run("-m", "gateway", "--help")
    assert shown.returncode == 0
    for flag in ("--vision", "--llm", "--store", "--media-dir", "--listen", "--metrics-listen"):
        assert flag in shown.stdout
    assert "(default: 127.0.0.1:50050)" in shown.stdout
    assert not {"(default: None)", "(default: )"} & set(re.findall(r"\(default: [^)]*\)", shown.stdout))


@pytest.mark.parametrize(
    ("flag", "problem"), [("--store", "--store: cannot open"), ("--media-dir", "--media-dir: cannot use")]
)
def test_storage_that_cannot_be_opened_ends_the_start_with_one_line(
    flag: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    started = run("-m", "gateway", "--listen", "127.0.0.1:0", flag, str(tmp_path / "file" / "inside"))
    assert started.returncode == 2
    assert started.stderr.startswith(f"gateway: {problem}")
    assert len(started.stderr.splitlines()) == 1


def test_gateway_imports_nothing_that_computes() -> None:
    program = "import sys, gateway.__main__; print(*sys.modules)"
    loaded = set(run("-c", program).stdout.split())
    assert "gateway.turns.turn" in loaded
    assert not loaded & {"numpy", "paddle", "PIL", "av", "sentencepiece", "kernels"}
