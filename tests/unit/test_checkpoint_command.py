"""The `internvl` command: finding subcommands, exit codes, and `internvl checkpoint` end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from checkpoint_samples import small_config, write_sample
from safetensors.numpy import load_file, save_file

from internvl.cli import Command
from internvl.cli.main import main
from internvl.cli.registry import GROUP, Registry
from internvl.errors import CheckpointError, ConfigError, Overloaded

ROOT = Path(__file__).parents[2]


def offer(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


REGISTRY = Registry([offer("checkpoint", "internvl.cli.checkpoint:command")])


def fail_with(error: BaseException) -> Command:
    def run(arguments: object) -> int:
        raise error

    return Command("fail", "Fails.", lambda parser: None, run)


class Loaded(Registry):
    """A registry of one ready-made command."""

    def __init__(self, command: Command) -> None:
        super().__init__([offer(command.name, "unused:unused")])
        self._command = command

    def load(self, name: str) -> Command:
        return self._command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("--port: must be below 65536"), 2, "internvl: --port: must be below 65536\n"),
        (CheckpointError("1 missing tensors: a"), 1, "internvl: 1 missing tensors: a\n"),
        (Overloaded("the queue is full", retry_after_s=1), 1, "internvl: the queue is full\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "internvl: x: No such file\n"),
        (OSError("socket is closed"), 1, "internvl: socket is closed\n"),
        (KeyboardInterrupt(), 130, "internvl: interrupted\n"),
        (ZeroDivisionError("by zero"), 1, "internvl: unexpected ZeroDivisionError: by zero"),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fail"], Loaded(fail_with(error))) == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_DEBUG", "1")
    with pytest.raises(ConfigError):
        main(["fail"], Loaded(fail_with(ConfigError("no"))))


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"], REGISTRY) == 2
    assert capsys.readouterr().err == "internvl: unknown command 'train'; commands: checkpoint\n"


def test_help_separates_what_cannot_be_used_here(capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(
        [
            offer("checkpoint", "internvl.cli.checkpoint:command"),
            offer("up", "not_installed.launcher:command"),
        ]
    )
    with pytest.raises(SystemExit) as left:
        main([], registry)
    assert left.value.code == 0
    available, unavailable = capsys.readouterr().out.split("not available here:")
    assert "checkpoint   Inspect, convert, quantise or make up a checkpoint." in available
    assert "up           needs the extra `all`: pip install 'internvl-serve[all]'" in unavailable


def test_a_command_whose_extra_is_missing_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up"], Registry([offer("up", "not_installed.launcher:command")])) == 2
    assert capsys.readouterr().err.startswith("internvl: internvl up needs the extra `all`: pip install ")


def test_a_broken_command_does_not_stand_in_the_way_of_others(tmp_path: Path) -> None:
    registry = Registry(
        [
            offer("checkpoint", "internvl.cli.checkpoint:command"),
            offer("up", "not_installed.launcher:command"),
        ]
    )
    assert main(["checkpoint", "inspect", str(write_sample(tmp_path))], registry) == 0


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"], REGISTRY)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"internvl-serve {project['version']}\n"


def test_the_declared_commands_have_the_four_attributes() -> None:
    """Those whose modules are part of this tree; names must equal their entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"][GROUP]
    assert {"checkpoint", "fetch"} <= declared.keys()
    for name in ("checkpoint", "fetch"):
        command = Registry([offer(name, declared[name])]).load(name)
        assert (command.name, command.help.endswith(".")) == (name, True)


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "internvl", "checkpoint", "inspect", str(write_sample(tmp_path))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "sound     every tensor is there and fits" in done.stdout


def test_random_convert_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.json"
    config.write_text(json.dumps(small_config()))
    hf, paddle, back = (str(tmp_path / name) for name in ("hf", "paddle", "back"))
    assert (
        main(["checkpoint", "random", hf, "--config", str(config), "--layers", "3", "--seed", "5"], REGISTRY)
        == 0
    )
    arguments = ["checkpoint", "convert", hf, paddle, "--to", "paddle", "--format", "pdparams"]
    assert main(arguments, REGISTRY) == 0
    assert main(["checkpoint", "convert", paddle, back, "--to", "hf"], REGISTRY) == 0
    first, last = (Path(folder, "model.safetensors").read_bytes() for folder in (hf, back))
    assert first == last
    capsys.readouterr()

    assert main(["checkpoint", "inspect", paddle, "--json"], REGISTRY) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layout"] == "paddle"
    assert report["problems"] == []
    assert list(report["shards"]) == ["model_state.pdparams"]
    assert report["dtypes"] == {"bfloat16": report["total"]["tensors"]}
    assert report["total"]["parameters"] == sum(part["parameters"] for part in report["parts"].values())
    assert report["total"]["bytes"] == 2 * report["total"]["parameters"]
    assert "3 layers" in report["config"]["llm"]


def test_inspect_reports_a_broken_checkpoint_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sample(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["mlp1.3.bias"]
    save_file(weights, folder / "model.safetensors")
    assert main(["checkpoint", "inspect", str(folder)], REGISTRY) == 1
    printed = capsys.readouterr().out
    assert "layout    hf" in printed
    assert "PROBLEM   1 missing tensors: mlp1.3.bias" in printed


def test_inspect_of_two_layouts_in_one_file_says_it_cannot_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sample(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    weights[name] = weights[name].T.copy()
    save_file(weights, folder / "model.safetensors")
    assert main(["checkpoint", "inspect", str(folder), "--json"], REGISTRY) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["layout"] is None
    assert report["problems"][0].startswith("contradictory layout: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["random", "DST", "--like", "InternVL2-4B", "--layers", "0"],
            "--layers: must be at least 1, found 0",
        ),
        (["random", "DST", "--like", "InternVL2-4B", "--format", "pdparams"], "add --to paddle"),
        (
            ["random", "DST", "--like", "InternVL2-4B", "--max-shard-bytes", "0"],
            "--max-shard-bytes: must be at",
        ),
        (["random", "DST", "--config", "nowhere.json"], "nowhere.json: cannot be read"),
        (["inspect", "DST"], "config.json: cannot be read"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["checkpoint", *arguments], REGISTRY) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
