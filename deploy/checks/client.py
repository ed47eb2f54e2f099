"""Imports the client where only its own dependencies exist: `python -m deploy.checks.client`.

Run it with the interpreter of `.venv-client`, which holds the oldest versions pyproject.toml allows and
nothing else. It loads every stub, every module of the client, and the `internvl` command line.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib import metadata

TOO_HEAVY = ("numpy", "PIL", "paddle", "structlog", "prometheus_client", "grpc_health")


def import_all(package_name: str) -> list[str]:
    """Import a package and every module in it; the names imported.

    Raises:
        ImportError: something in it needs a package that is not installed.
    """
    package = importlib.import_module(package_name)
    names = [package_name]
    for module in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
    return names


def main() -> int:
    """Import everything; exit status 1 if a heavy package came along."""
    names = [*import_all("internvl.v1"), *import_all("internvl_client"), "internvl.cli.main"]
    importlib.import_module("internvl.cli.main")
    heavy = [name for name in TOO_HEAVY if name in sys.modules]
    if heavy:
        print(f"the client drags in {', '.join(heavy)}", file=sys.stderr)
        return 1
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grpcio", "protobuf"))
    print(f"{len(names)} modules of the client import with {versions} and nothing heavier")
    return 0


if __name__ == "__main__":
    sys.exit(main())
