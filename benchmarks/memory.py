"""Memory of processes, and of files that were read, as Linux tells of it. Only the standard library here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")


def peak_rss(pids: Iterable[int]) -> int:
    """Bytes of all these processes and those they started, each at its own peak."""
    return sum(_status(pid, "VmHWM") for pid in _with_children(set(pids)))


def drop_from_page_cache(folder: Path) -> None:
    """Ask Linux to forget what it holds of a folder's files, as far as nothing of it waits to be written."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fdatasync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _with_children(pids: set[int]) -> set[int]:
    parents = dict(_parents())
    while grown := {pid for pid, parent in parents.items() if parent in pids} - pids:
        pids |= grown
    return pids


def _parents() -> Iterator[tuple[int, int]]:
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and (parent := _number(folder / "status", "PPid")) is not None:
            yield int(folder.name), parent


def _status(pid: int, key: str) -> int:
    """A number of kB, in bytes; 0 if the process has ended."""
    return 1024 * (_number(_PROC / str(pid) / "status", key) or 0)


def _number(file: Path, key: str) -> int | None:
    try:
        found = re.search(rf"^{key}:\s+(\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
