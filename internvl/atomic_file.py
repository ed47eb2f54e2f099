"""Files that are whole or not there: written under another name beside their own, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""How the other name ends."""


@contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """An empty file that takes the place of `path` when the block ends.

    If the block fails, nothing is left of it, and what `path` was it stays. What a killed process left behind
    the next one empties and uses.

    Args:
        mode: permissions of a new file, less those that the umask takes away.

    Raises:
        BlockingIOError: another process is writing `path`.
        OSError: it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    with _opened(partial, mode) as file:
        if not _locked(file) or not _is_still(file, partial):
            raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing it", path.name)
        try:
            file.truncate(0)
            yield file
            file.flush()
            partial.replace(path)
        finally:
            if _is_still(file, partial):  # it was not renamed
                partial.unlink()


def delete_abandoned(folder: Path) -> None:
    """Delete what killed processes left behind in a folder."""
    for partial in folder.glob(f"*{PARTIAL}"):
        # Fails where somebody is at work in it, where it is gone, and where the file system cannot tell.
        with suppress(OSError), partial.open("r+b") as file:
            _lock(file)
            if _is_still(file, partial):
                partial.unlink()


def _opened(path: Path, mode: int) -> BinaryIO:
    """Open for writing without emptying it: another process may be at work in it."""
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags & ~os.O_TRUNC, mode))


def _locked(file: BinaryIO) -> bool:
    """Whether nobody else is at work in it, as far as the file system can tell."""
    try:
        _lock(file)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _lock(file: BinaryIO) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is the one of that name; another process may have renamed or deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
