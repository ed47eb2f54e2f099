"""Building and finding the native operators: once, by one process, and never in anybody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from internvl.errors import ConfigError
from kernels.native import build as building
from kernels.native.build import BuildError, build, library_path
from kernels.native.library import open_library

_OPEN = """
from kernels.dispatch import open_ops
from kernels.runtime import CPU
print(type(open_ops(CPU)).__name__)
"""
_BUILD = """
import json
from kernels.native.build import build
path = build()
print(json.dumps([str(path), path.stat().st_ino]))
"""


def opened(cache: Path, **environment: str) -> tuple[str, str]:
    """Which operators a new process takes, and what it logs."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout.split()[-1], done.stdout + done.stderr


def without_compiler(folder: Path) -> str:
    """A PATH whose every compiler fails at once."""
    for name in ("c++", "g++", "gcc", "cc"):
        compiler = folder / name
        compiler.write_text("#!/bin/sh\necho 'error: this compiler is a stand-in' >&2\nexit 1\n")
        compiler.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("mode", ["auto", "off", "0"])
def test_a_start_never_builds_unasked(tmp_path: Path, mode: str) -> None:
    operators, log = opened(tmp_path, INTERNVL_NATIVE=mode)
    assert operators == "PaddleOps"
    assert ("not built" in log) == (mode == "auto")
    assert not list(tmp_path.rglob("*.so"))


def test_failing_compiler_leaves_plain_operators_and_a_line(tmp_path: Path) -> None:
    operators, log = opened(tmp_path, INTERNVL_NATIVE="build", PATH=without_compiler(tmp_path))
    assert operators == "PaddleOps"
    assert "native operators not used" in log
    assert not list(tmp_path.rglob("*.so"))
    assert [path.suffix for path in (tmp_path / "internvl" / "native").iterdir()] == [".lock"]


def test_cache_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "internvl").write_text("a file where a folder should be")
    operators, log = opened(tmp_path, INTERNVL_NATIVE="build")
    assert operators == "PaddleOps"
    assert "native operators not used" in log


def test_damaged_library_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = library_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a library")
    operators, log = opened(tmp_path, INTERNVL_NATIVE="auto")
    assert operators == "PaddleOps"
    assert "native operators not used" in log


def test_two_processes_build_once(tmp_path: Path) -> None:
    try:
        build()
    except BuildError as error:
        pytest.skip(f"native operators cannot be built here: {error}")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", _BUILD], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=240)[0]) for process in both)
    assert first == second
    assert [path.name for path in tmp_path.rglob("*.so")] == [Path(first[0]).name]
    operators, _ = opened(tmp_path, INTERNVL_NATIVE="auto")
    assert operators == "NativeOps"


def test_other_sources_are_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = library_path()
    changed = tmp_path / "changed.cc"
    changed.write_text("// another")
    monkeypatch.setattr(building, "_SOURCES", [changed])
    assert library_path() != before
    monkeypatch.setattr(building, "_SOURCES", [])
    with pytest.raises(BuildError, match="without their sources"):
        build()


def test_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_NATIVE", "sometimes")
    with pytest.raises(ConfigError, match="INTERNVL_NATIVE"):
        open_library.__wrapped__()
