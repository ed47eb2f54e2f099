"""A file of keys that is read again when it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from internvl.errors import ConfigError
from internvl.telemetry import get_logger

T = TypeVar("T")

_log = get_logger("keys")


class WatchedFile(Generic[T]):
    """What a file says, as it is now; a change that cannot be used leaves what was there before."""

    def __init__(self, file: Path, read: Callable[[Path], T]) -> None:
        """Read it for the first time.

        Raises:
            ConfigError: as `read` raises it.
        """
        self._file = file
        self._read = read
        self._stamp = self._stamp_now()
        self._said = read(file)

    def __call__(self) -> T:
        """What it says. Looks at the file's status, and reads it only if that is another."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._said = self._read(self._file)
            except ConfigError as error:
                _log.error("keys not read again", problem=str(error))
            else:
                _log.info("keys read again")
        return self._said

    def _stamp_now(self) -> tuple[int, int, int] | None:
        """Changes with the file; None where there is none."""
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
