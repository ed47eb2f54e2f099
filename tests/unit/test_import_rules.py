"""Every import rule can fail: each is shown one import that it must refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

VIOLATIONS = {
    "layers": ("internvl/planted.py", "import gateway.config"),
    "gateway-computes-nothing": ("gateway/planted.py", "import kernels.ops"),
    "gateway-rooms": ("gateway/storage/planted.py", "import gateway.turns.turn"),
    "paddle": ("llm_service/planted.py", "import paddle"),
    "bookkeeping": ("llm_service/text/planted.py", "import internvl.v1.content_pb2"),
    "client": ("clients/internvl_client/planted.py", "import numpy"),
    "checkpoint": ("internvl/checkpoint/planted.py", "import internvl.v1.tensor_pb2"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, to plant imports in."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / ".importlinter", copy)
    for package in (*rules()["importlinter"]["root_packages"].split(), "clients"):
        if package != "internvl_client":
            shutil.copytree(ROOT / package, copy / package, ignore=lambda _, names: not_python(names))
    return copy


def not_python(names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__" or ("." in name and not name.endswith(".py"))]


def rules() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


def lint(tree: Path, contract: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--contract", contract],
        check=False,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree}:{tree / 'clients'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_rule_has_a_violation_to_find() -> None:
    contracts = {name.removeprefix("importlinter:contract:") for name in rules().sections()[1:]}
    assert VIOLATIONS.keys() == contracts


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_rule_refuses_its_violation(tree: Path, contract: str) -> None:
    before = lint(tree, contract)
    assert before.returncode == 0, before.stdout + before.stderr
    file, violation = VIOLATIONS[contract]
    planted = tree / file
    planted.write_text(f"{violation}\n")
    try:
        after = lint(tree, contract)
    finally:
        planted.unlink()
    assert after.returncode == 1
    assert planted.stem in after.stdout


def test_bookkeeping_loads_no_paddle_at_run_time() -> None:
    packages = rules()["importlinter:contract:bookkeeping"]["source_modules"].split()
    program = f"import sys, {', '.join([*packages, 'gateway.server'])}; sys.exit('paddle' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, timeout=60)
    assert loaded.returncode == 0
