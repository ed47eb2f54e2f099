"""Whatever a package imports, its extra names: it is not left to something that happens to bring it along."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"deploy", "gateway", "internvl", "internvl_client", "kernels", "llm_service", "vision_service"}
# Namespace packages, which many distributions share.
DISTRIBUTIONS = packages_distributions() | {"google": ["protobuf"]}

# What a command needs for one thing only, and asks for with an error of its own.
ASKED_FOR = {"internvl/checkpoint": {"sentencepiece"}}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra: str) -> set[str]:
    """All distributions that an extra names, by itself or by another extra."""
    names = set()
    for requirement in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]):
        if included := re.match(r"internvl-serve\[(.*)\]", requirement):
            names.update(*map(declared, included[1].split(",")))
        else:
            names.add(normal(re.match(r"[\w.-]+", requirement)[0]))  # type: ignore[index]
    return names


def imported(folder: Path) -> Iterator[str]:
    """The top-level modules that the sources of a folder import, anywhere."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (each.name.partition(".")[0] for each in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("clients/internvl_client", "client"),
        ("gateway", "gateway"),
        ("internvl/checkpoint", "checkpoint"),
        ("internvl/fetch", "fetch"),
        ("internvl/rpc", "server"),
        ("llm_service", "llm,cpu"),
        ("vision_service", "vision,cpu"),
    ],
)
def test_what_a_package_imports_its_extras_name(folder: str, extras: str) -> None:
    foreign = set(imported(ROOT / folder)) - sys.stdlib_module_names - OURS - ASKED_FOR.get(folder, set())
    assert foreign
    named = set().union(*map(declared, extras.split(",")))
    missing = {module for module in foreign if named.isdisjoint(map(normal, DISTRIBUTIONS[module]))}
    assert not missing
