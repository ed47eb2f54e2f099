"""What an install brings: the wheel's files, its commands, and lock files that agree with pyproject.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.checks.licences import is_allowed

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy/requirements"
EXTRAS_OF_LOCK = {
    "runtime": ("all", "nano"),
    "vision": ("vision", "cpu"),
    "llm": ("llm", "cpu"),
    "gateway": ("gateway",),
    "test": ("test",),
    "check": ("check",),
    "client-floor": (),
    "protos": ("protos",),
}
# Installed into environments of their own, at versions of their own.
APART = {"client-floor", "protos"}


@cache
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def requirements(extras: tuple[str, ...]) -> set[Requirement]:
    """What a plain install and these extras ask for, with extras of our own resolved."""
    asked = {Requirement(text) for text in project()["dependencies"]}
    for extra in extras:
        for requirement in map(Requirement, project()["optional-dependencies"][extra]):
            own = requirement.name == project()["name"]
            asked |= requirements(tuple(requirement.extras)) if own else {requirement}
    return asked


def locked(lock: str) -> dict[str, Version]:
    """Name to version, of the lines that hold for this interpreter."""
    text = (LOCKS / f"{lock}.lock").read_text()
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?", text, re.MULTILINE)
    holds = [(name, version) for name, version, marker in lines if marker_holds(marker)]
    return {canonicalize_name(name): Version(version) for name, version in holds}


def marker_holds(marker: str) -> bool:
    environment = {key: str(value) for key, value in default_environment().items()}
    parsed = Requirement(f"x ; {marker}").marker if marker.strip() else None
    return parsed is None or parsed.evaluate(environment)


@pytest.mark.parametrize("lock", EXTRAS_OF_LOCK)
def test_lock_answers_what_is_asked(lock: str) -> None:
    versions = locked(lock)
    for requirement in requirements(EXTRAS_OF_LOCK[lock]):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is missing: run `make lock`"
        assert requirement.specifier.contains(version), (
            f"{requirement} is locked at {version}: run `make lock`"
        )


def test_locks_for_one_environment_agree() -> None:
    merged: dict[str, Version] = {}
    for lock in EXTRAS_OF_LOCK.keys() - APART:
        for name, version in locked(lock).items():
            assert merged.setdefault(name, version) == version, f"{name} differs in {lock}.lock"


def test_locks_name_no_place_to_download_from() -> None:
    for path in LOCKS.glob("*.lock"):
        assert "://" not in path.read_text(), path.name


@pytest.mark.parametrize("lock", sorted(EXTRAS_OF_LOCK.keys() - {"test"}))
def test_every_locked_file_has_a_hash(lock: str) -> None:
    for entry in re.split(r"\n(?=[a-z])", (LOCKS / f"{lock}.lock").read_text()):
        assert "--hash=sha256:" in entry, entry


def test_a_plain_install_is_the_client() -> None:
    names = {Requirement(text).name for text in project()["dependencies"]}
    assert names == {"googleapis-common-protos", "grpcio", "grpcio-status", "protobuf"}


def test_the_gateway_installs_nothing_that_computes() -> None:
    assert not locked("gateway").keys() & {"numpy", "paddlepaddle", "pillow", "av", "sentencepiece"}


@pytest.mark.parametrize("lock", ["runtime", "vision"])
def test_no_service_installs_what_may_not_be_passed_on(lock: str) -> None:
    """decord bundles an FFmpeg that calls itself "nonfree and unredistributable"."""
    assert "av" in locked(lock)
    assert "decord" not in locked(lock)


@pytest.mark.parametrize("name", ["chat", "checkpoint", "fetch", "replay", "up"])
def test_command_loads(name: str) -> None:
    value = project()["entry-points"]["internvl.commands"][name]
    assert EntryPoint(name, value, "internvl.commands").load() is not None


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MIT AND BSD-3-Clause", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only", False),
        ("none stated", False),
    ],
)
def test_licence_list_refuses_what_is_not_on_it(licence: str, allowed: bool) -> None:
    assert is_allowed(licence) is allowed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy because a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_what_runs_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = set(wheel.namelist())
    assert {
        "internvl/v1/chat_service_pb2_grpc.pyi",
        "internvl/py.typed",
        "internvl_client/__init__.py",
        "internvl_client/py.typed",
        "models/nano/config.json",
        "models/nano/tokenizer.model",
        "deploy/launcher/command.py",
    } <= files
    top_level = {file.split("/")[0] for file in files}
    assert not top_level & {"tests", "benchmarks", "docs", "clients", "protos"}


def test_wheel_states_its_licence(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    assert "License-Expression: MIT" in text
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
