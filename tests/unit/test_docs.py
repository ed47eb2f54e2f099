"""What the documents point at exists: links, files and make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
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
    rules = re.findall(r"^([\w%-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    patterns = [re.compile(rule.replace("%", r"\S+")) for rule in rules]
    for target in re.findall(r"(?:`|^)make ([\w-]+)", document.read_text(), re.MULTILINE):
        assert any(pattern.fullmatch(target) for pattern in patterns), target
