"""Fingerprints of weights that were read before, so that the next start need not hash them again."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from internvl.atomic_file import atomic_write

# Files changed less than this before they are looked at could change again without a new time.
_TIME_STEP_NS = 2_000_000_000

_KEPT = 256


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What the file system says of some files; it changes whenever their content does.

    Attributes:
        key: hash of device, inode, size, time of change and time of modification of each file.
        settled: whether the files are old enough that a later change must change their times.
    """

    key: str
    settled: bool

    @classmethod
    def of(cls, paths: Iterable[Path]) -> FileIdentity:
        """Raises OSError where a file is not there."""
        found = [path.stat() for path in paths]
        facts = [(s.st_dev, s.st_ino, s.st_size, s.st_ctime_ns, s.st_mtime_ns) for s in found]
        newest = max((max(s.st_ctime_ns, s.st_mtime_ns) for s in found), default=0)
        settled = newest + _TIME_STEP_NS < time.time_ns()
        return cls(hashlib.sha256(repr(facts).encode()).hexdigest(), settled)


class FingerprintStore:
    """A folder with one small file for each part of each checkpoint; whatever fails there only costs time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, files: FileIdentity, parts: Sequence[str]) -> str | None:
        """The fingerprint of the tensors under these prefixes in these very files, if it is known."""
        if not files.settled:
            return None
        path = self._path(files, parts)
        try:
            text = path.read_text(encoding="ascii")
            os.utime(path)
        except (OSError, ValueError):
            return None
        return text if re.fullmatch("[0-9a-f]{64}", text) else None

    def keep(self, files: FileIdentity, parts: Sequence[str], fingerprint: str) -> None:
        """Note what a full read gave; the files must not have changed since `files` was taken."""
        if not files.settled:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self._path(files, parts), mode=0o600) as file:
                file.write(fingerprint.encode("ascii"))
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        newest_first = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest_first[_KEPT:]:
            path.unlink(missing_ok=True)

    def _path(self, files: FileIdentity, parts: Sequence[str]) -> Path:
        return self._folder / hashlib.sha256(f"{files.key} {sorted(parts)}".encode()).hexdigest()
