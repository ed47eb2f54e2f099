"""Where the bytes of media are: a local directory, or whatever fsspec can reach."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from internvl.errors import ConfigError, Unavailable
from internvl.telemetry import get_logger

PLACE = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})\.[0-9a-f]{8}")
"""A place: the hash of the content, and what tells one upload of it from another."""

_INCOMING = "incoming"
# Uploads of that age are over, whichever gateway took them.
_LEFTOVER_S = 3600.0

_log = get_logger("media")


class FoundFile(NamedTuple):
    """A file that is there.

    Attributes:
        used: when it was last, in seconds since 1970.
        media_id: hash of its content.
        size: its length in bytes.
    """

    used: float
    media_id: str
    place: str
    size: int


class MediaFiles(Protocol):
    """Files by place. All calls block; they raise `Unavailable` where the storage fails."""

    @property
    def incoming(self) -> Path:
        """The local directory for uploads on their way."""

    def keep(self, temporary: Path, place: str) -> None:
        """Move a finished upload to its place."""

    def open(self, place: str) -> BinaryIO:
        """Open a file for reading; it has a file descriptor, and stays readable if it is deleted meanwhile.

        Raises:
            FileNotFoundError: there is none.
        """

    def has(self, place: str) -> bool:
        """Whether there is a file."""

    def delete(self, place: str) -> None:
        """Delete a file; nothing happens if there is none."""

    def found(self) -> list[FoundFile]:
        """What is there, least recently used first; nothing where looking is dear."""


class LocalFiles:
    """A directory. Gateways of one machine may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.incoming = directory / _INCOMING
        self.incoming.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(self.incoming)

    def keep(self, temporary: Path, place: str) -> None:
        with usable():
            path = self._directory / place
            path.parent.mkdir(exist_ok=True)
            temporary.replace(path)

    def open(self, place: str) -> BinaryIO:
        path = self._directory / place
        with usable():
            with suppress(OSError):
                os.utime(path)
            return path.open("rb")

    def has(self, place: str) -> bool:
        with usable():
            return (self._directory / place).is_file()

    def delete(self, place: str) -> None:
        with usable():
            (self._directory / place).unlink(missing_ok=True)

    def found(self) -> list[FoundFile]:
        found = []
        for path in self._directory.glob("[0-9a-f][0-9a-f]/*"):
            place = f"{path.parent.name}/{path.name}"
            with suppress(FileNotFoundError):
                if match := PLACE.fullmatch(place):
                    status = path.stat()
                    found.append(FoundFile(status.st_mtime, match[1], place, status.st_size))
        return sorted(found)


class RemoteFiles:
    """A folder of any file system that fsspec knows, such as `s3://bucket/prefix`, for many gateways.

    Files come and go whole: an upload is collected on the local disk first, and a file is fetched there
    before it is read.
    """

    def __init__(self, url: str) -> None:
        """Find the file system.

        Raises:
            ConfigError: nobody knows this kind of URL, or what it needs is not installed.
        """
        try:
            import fsspec

            self._system, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            kind = url.partition(":")[0]
            hint = "install internvl-serve[s3]" if kind in ("s3", "s3a") else "fsspec cannot use it"
            raise ConfigError(f"--media-dir: {kind}: {hint} ({type(error).__name__})") from None
        self._local = tempfile.TemporaryDirectory(prefix="internvl-media-", ignore_cleanup_errors=True)
        self.incoming = Path(self._local.name)

    def keep(self, temporary: Path, place: str) -> None:
        with usable():
            self._system.makedirs(f"{self._root}/{place[:2]}", exist_ok=True)
            self._system.put_file(str(temporary), f"{self._root}/{place}")
            temporary.unlink()

    def open(self, place: str) -> BinaryIO:
        with usable():
            # Without a name from the start: whatever happens, nothing is left of it.
            file: BinaryIO = tempfile.TemporaryFile(dir=self.incoming)  # noqa: SIM115
            try:
                with self._system.open(f"{self._root}/{place}", "rb", cache_type="none") as source:
                    while chunk := source.read(_PIECE):
                        file.write(chunk)
            except BaseException:
                file.close()
                raise
            file.seek(0)
            return file

    def has(self, place: str) -> bool:
        with usable():
            return bool(self._system.isfile(f"{self._root}/{place}"))

    def delete(self, place: str) -> None:
        with usable(), suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{place}")

    def found(self) -> list[FoundFile]:
        return []


_PIECE = 4 * 2**20


@contextmanager
def usable() -> Iterator[None]:
    """Raises Unavailable where the storage fails; the log says how. A missing file passes."""
    try:
        yield
    except (FileNotFoundError, Unavailable):
        raise
    except Exception as error:  # fsspec raises whatever its file systems do
        _log.error("media store failed", problem=getattr(error, "strerror", None) or type(error).__name__)
        raise Unavailable("the media store cannot be used") from error


@contextmanager
def usable_disk() -> Iterator[None]:
    """As `usable`, where a missing directory is a failure too."""
    try:
        with usable():
            yield
    except FileNotFoundError as error:
        _log.error("media store failed", problem=error.strerror)
        raise Unavailable("the media store cannot be used") from error


def _delete_leftovers(incoming: Path) -> None:
    oldest = time.time() - _LEFTOVER_S
    for leftover in incoming.iterdir():
        with suppress(FileNotFoundError):
            if leftover.stat().st_mtime < oldest:
                leftover.unlink()
