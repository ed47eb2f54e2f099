"""What the deployment files hold, and the programs they start."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import gateway.config
import llm_service.config
import vision_service.config
from deploy.checks.manifests import MANIFESTS, Resource, resources

ROOT = Path(__file__).parents[2]
TIERS = ("vision", "llm", "gateway")
MODELS = ("vision", "llm")
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "vision": vision_service.config.parse_config,
    "llm": llm_service.config.parse_config,
    "gateway": gateway.config.parse_config,
}


@cache
def listed() -> tuple[Resource, ...]:
    return tuple(resources(MANIFESTS))


def find(kind: str, name: str) -> dict[str, Any]:
    (body,) = (r.body for r in listed() if r.body["kind"] == kind and r.body["metadata"]["name"] == name)
    return copy.deepcopy(body)


def pod_of(tier: str) -> dict[str, Any]:
    template: dict[str, Any] = find("Deployment", tier)["spec"]["template"]
    return template


def container_of(tier: str) -> dict[str, Any]:
    (container,) = pod_of(tier)["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def compose(file: str = "compose.yaml") -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / file).read_text())
    return body


def stages(tier: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The instructions that build, and those of the image."""
    lines = instructions(ROOT / "deploy/images" / tier / "Dockerfile")
    _, start = (number for number, (keyword, _) in enumerate(lines) if keyword == "FROM")
    return lines[:start], lines[start:]


def variables(stage: list[tuple[str, str]]) -> dict[str, str]:
    """What a stage sets in the environment."""
    settings = (word for keyword, rest in stage if keyword == "ENV" for word in shlex.split(rest))
    return dict(setting.split("=", 1) for setting in settings)


def folders_of_the_user(tier: str) -> set[str]:
    """Folders of an image that its user may write to; a fresh volume mounted there takes after them."""
    made = (rest for keyword, rest in stages(tier)[1] if keyword == "RUN" and rest.startswith("install "))
    return {rest.rsplit(" ", 1)[1] for rest in made if "--owner=10001 --group=10001" in rest}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", dockerfile.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines)]
