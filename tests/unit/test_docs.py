"""What the documents point at exists: links, files and make targets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ROOT_FILES = {
    *(".dockerignore", ".gitignore", ".importlinter"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "buf.yaml", "pyproject.toml"),
}
SUFFIXES = ("py", "md", "yaml", "json", "proto", "lock", "toml")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_named_files_exist(document: Path) -> None:
    names = re.findall(rf"`([\w./-]+/[\w.-]+\.(?:{'|'.join(SUFFIXES)}))`", document.read_text())
    for name in names:
        assert (ROOT / name).exists() or any(ROOT.glob(f"*/{name}")), name


def test_make_targets_exist(document: Path) -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^)make ([\w-]+)", document.read_text(), re.MULTILINE):
        assert target in rules or target == "bench-NAME" or is_benchmark(target), target


def is_benchmark(target: str) -> bool:
    """Whether the rule for `bench-%` finds a program."""
    name = target.removeprefix("bench-").replace("-", "_")
    return target.startswith("bench-") and (ROOT / "benchmarks" / name / "__main__.py").is_file()


def test_no_file_strays_into_the_root() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    kept = subprocess.run(
        ["git", "ls-files", "--", ":(glob)*"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(kept.stdout.split()) == ROOT_FILES
