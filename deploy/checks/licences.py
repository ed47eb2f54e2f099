"""Checks the licence of every package that an install can bring: `python -m deploy.checks.licences`.

A package states its licence in its metadata; each must be on the list below or have an entry that says why it
is here all the same. What a wheel bundles is not in its metadata: docs/decisions.md tells of those.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

LOCKS = Path(__file__).parents[1] / "requirements"
CHECKED_LOCKS = ("runtime.lock", "test.lock")

ALLOWED = frozenset(
    {
        "0BSD",
        "3-Clause BSD License",
        "Apache",
        "Apache Software License",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT License",
        "MIT-CMU",
        "PSF-2.0",
        "Python Software Foundation License",
        "SIL Open Font License 1.1 (OFL-1.1)",
        "Zlib",
    }
)

# File-level copyleft that we use unchanged, or a licence the metadata fails to name.
EXPLAINED: Mapping[str, str] = {
    "certifi": "MPL 2.0: a list of certificates, used unchanged",
    "hypothesis": "MPL 2.0: tests only, used unchanged",
    "opt-einsum": "MIT, which its metadata does not say",
    "orjson": "MPL 2.0 in part: comes with langchain-openai, tests only, used unchanged",
    "pycountry": "LGPL 2.1: comes with mistral-common, tests only, used unchanged",
    "tqdm": "MPL 2.0 and MIT: used unchanged",
}


def locked_packages() -> set[str]:
    """Names in the lock files, normalised."""
    lines = "\n".join((LOCKS / lock).read_text() for lock in CHECKED_LOCKS)
    return {normalised(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lines, re.MULTILINE)}


def normalised(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def stated_licence(package: metadata.PackageMetadata) -> str:
    """The licence in a package's metadata: the SPDX expression, else the classifiers, else the free text."""
    expressions: list[str] = package.get_all("License-Expression") or []
    if expressions:
        return expressions[0]
    classifiers: list[str] = package.get_all("Classifier") or []
    approved = [c.rsplit(" :: ", 1)[1] for c in classifiers if c.startswith("License :: OSI Approved ::")]
    if approved:
        return " AND ".join(approved)
    free_texts: list[str] = package.get_all("License") or ["none stated"]
    return free_texts[0].strip().splitlines()[0]


def is_allowed(licence: str) -> bool:
    """Whether every part of an expression, or for `OR` one alternative, is on the list."""
    return all(
        any(choice.strip() in ALLOWED for choice in part.split(" OR ")) for part in licence.split(" AND ")
    )


def problems() -> Iterator[str]:
    """Locked and installed packages whose licence is neither allowed nor explained."""
    locked = locked_packages()
    for distribution in metadata.distributions():
        name = normalised(distribution.name)
        licence = stated_licence(distribution.metadata)
        if name in locked and name not in EXPLAINED and not is_allowed(licence):
            yield f"{distribution.name} {distribution.version}: {licence}"


def main() -> int:
    """Print every problem; exit status 1 if there is one."""
    found = sorted(problems())
    for problem in found:
        print(f"licence neither allowed nor explained: {problem}", file=sys.stderr)
    if not found:
        print(f"{len(locked_packages())} locked packages have allowed licences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
