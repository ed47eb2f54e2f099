"""What the race makes before it runs: environments, models, the field. No peer is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import peak_rss
from benchmarks.peers.__main__ import main
from benchmarks.peers.checkpoints import config_of, modern
from benchmarks.peers.contestants import contestants, full_form, programs
from benchmarks.peers.environments import Environment, python_of, reason, variables_of, without_lines
from benchmarks.peers.failures import NotRunError
from benchmarks.peers.record import processor
from internvl.checkpoint import series_config


def test_an_environment_is_built_once(tmp_path: Path) -> None:
    empty = Environment("empty", ("pip",), variables={"SOME": "setting"})
    python = python_of(empty, tmp_path)
    made = python.stat().st_ctime_ns
    assert python_of(empty, tmp_path) == python
    assert python.stat().st_ctime_ns == made
    assert variables_of(empty, tmp_path) == {"SOME": "setting"}


def test_an_environment_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    missing = Environment("missing", ("./no-such-package",))
    with pytest.raises(NotRunError, match="no-such-package"):
        python_of(missing, tmp_path)


def test_a_reason_is_the_last_error_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert reason(log) == "no reason was given"
    log.write_text(
        "starting\n(Worker) ValueError: no room\nRuntimeError: failed. See root cause above.\nbye\n\n"
    )
    assert reason(log) == "ValueError: no room"
    log.write_text("starting\nIllegal instruction\n")
    assert reason(log) == "Illegal instruction"


def test_a_file_of_another_version_is_not_patched() -> None:
    assert without_lines("keep\n  drop\n", ["  drop\n"]) == "keep\n"
    with pytest.raises(NotRunError, match="no line 'drop'"):
        without_lines("keep\n", ["  drop\n"])


def test_fewer_layers_cut_both_towers() -> None:
    assert config_of(32) == series_config("InternVL2-4B")
    small = config_of(4)
    assert small["llm_config"]["num_hidden_layers"] == 4
    assert small["vision_config"]["num_hidden_layers"] == 3


def test_a_configuration_for_new_transformers_says_the_same() -> None:
    released = series_config("InternVL2-4B")
    scaling = modern(released)["llm_config"]["rope_scaling"]
    assert scaling["rope_type"] == scaling["type"] == "longrope"
    assert scaling["original_max_position_embeddings"] == 4096
    assert scaling["long_factor"] == released["llm_config"]["rope_scaling"]["long_factor"]
    assert released == series_config("InternVL2-4B")


def test_the_field_has_what_the_formats_are_compared_with() -> None:
    names = [each.name for each in contestants(["w4"], ["llama", "vllm"])]
    assert names == ["ours w4", "llama q4_k_m fa=off", "llama q4_k_m fa=on"]
    alone = contestants(["int8"], ["vllm"], ours=False)
    assert [each.name for each in alone] == [f"vllm {full_form()}"]


def test_a_peer_finds_none_of_our_packages(tmp_path: Path) -> None:
    """transformers asks whether there is a package `kernels`, and took ours for it."""
    probe = "import importlib.util as u; print([u.find_spec(n) is None for n in ('benchmarks', 'kernels')])"
    folder = programs(tmp_path)
    found = subprocess.run(
        [sys.executable, "-S", "-c", probe], cwd=folder, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[False, True]"
    assert programs(tmp_path) == folder


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--peers", "llama,nobody"])
    assert "no such 'nobody'; known: vllm, llama, transformers" in capsys.readouterr().err


def test_an_earlier_race_is_reported_without_running_anything(tmp_path: Path) -> None:
    record, rows = tmp_path / "race.json", tmp_path / "rows.json"
    sample = {"piece": "text", "contestant": "ours w4", "arrivals": [[0.5, 0.6, 0.7]]}
    facts = {"ours w4": {"version": "1", "ready_s": [9.0], "peak_bytes": 0, "not_run": {}}}
    conditions = {"layers": 32, "threads": 2, "model": "", "processor": processor()}
    content = {"conditions": conditions, "bandwidth_gb_s": [40.0], "facts": facts, "samples": [sample]}
    record.write_text(json.dumps(content))
    flags = ["--rounds", "0", "--threads", "2", "--cache", str(tmp_path), "--json", str(rows)]
    main([*flags, "--record", str(record)])
    values = {row["metric"]: row["value"] for row in json.loads(rows.read_text())}
    assert values["ours_w4_decode_b1"] == pytest.approx(100)
    assert values["image_newq"] is None


def test_peak_memory_counts_this_process() -> None:
    assert peak_rss([os.getpid()]) > 10 * 2**20
