"""Checks the manifests against Kubernetes' own schemas: `python -m deploy.checks.manifests [FOLDER]`.

Offline, with unknown fields refused, for the oldest and the newest Kubernetes we name. The manifests were
never applied to a cluster; this is all that stands behind them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

MANIFESTS = Path(__file__).parents[1] / "kubernetes"
MANY_GATEWAYS = MANIFESTS / "many-gateways"
# preStop.sleep is on by default since 1.30.
KUBERNETES_VERSIONS = ("1.30", "1.37")


@dataclass(frozen=True, slots=True)
class Resource:
    """One document of a manifest."""

    file: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.file}: {self.body.get('kind', '?')} {self.body.get('metadata', {}).get('name', '?')}"


def resources(folder: Path) -> Iterator[Resource]:
    """Every resource that the folder's kustomization lists, in order.

    Raises:
        FileNotFoundError: the kustomization lists a file that is not there.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for file in kustomization["resources"]:
        if (folder / file).is_dir():
            yield from resources(folder / file)
            continue
        for body in yaml.safe_load_all((folder / file).read_text()):
            yield Resource(file, body)


def problems(resource: Resource) -> list[str]:
    """What the schemas of each Kubernetes version hold against a resource; empty if nothing."""
    found = []
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(resource.body, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(step) for step in error.path)
            found.append(f"{resource.name}: {where or 'top'}: {error.message} (Kubernetes {version})")
        except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            found.append(f"{resource.name}: {error.message} (Kubernetes {version})")
    return found


def main(arguments: list[str]) -> int:
    """Print every problem; exit status 1 if there is one."""
    folder = Path(arguments[0]) if arguments else MANY_GATEWAYS
    listed = list(resources(folder))
    found = [problem for resource in listed for problem in problems(resource)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{len(listed)} resources valid for Kubernetes {' and '.join(KUBERNETES_VERSIONS)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
