"""Uploaded files, kept in a local directory under the hash of their content."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway import metrics
from internvl.errors import BadMedia, ConfigError, NotFound, Unavailable
from internvl.telemetry import get_logger

MIB = 2**20

_MEDIA_ID = re.compile(r"[0-9a-f]{64}")
_INCOMING = "incoming"

_log = get_logger("media")


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """Where media is kept and how much of it.

    Attributes:
        directory: kept between runs; None for a private one that ends with the process.
        max_file_bytes: largest single file.
        quota_bytes: all files together; the least recently used are dropped to stay below it.
    """

    directory: Path | None = None
    max_file_bytes: int = 256 * MIB
    quota_bytes: int = 4096 * MIB


class MediaStore:
    """Content-addressed files: the same bytes always have the same id, and are held once.

    A `media_id` is the SHA-256 of the content in 64 hexadecimal digits. One process owns the directory.
    Bytes are read, written and deleted in threads. The event loop alone touches the index and renames files,
    both in one go, so that whoever is cancelled leaves them agreeing. A directory that cannot be used, such
    as a full one, is `Unavailable`.
    """

    def __init__(self, directory: Path, config: MediaConfig) -> None:
        self._directory = directory
        self._config = config
        self._sizes = OrderedDict(_scan(directory))
        self._used_bytes = 0
        self._count(sum(self._sizes.values()))
        (directory / _INCOMING).mkdir(parents=True, exist_ok=True)
        for leftover in (directory / _INCOMING).iterdir():
            leftover.unlink()

    @property
    def used_bytes(self) -> int:
        """Bytes of all files together."""
        return self._used_bytes

    @property
    def max_file_bytes(self) -> int:
        """Largest file taken, in bytes."""
        return self._config.max_file_bytes

    def __contains__(self, media_id: str) -> bool:
        return media_id in self._sizes

    def size(self, media_id: str) -> int:
        """Length of a file in bytes.

        Raises:
            NotFound: no such media, or dropped since to make room.
        """
        if media_id not in self._sizes:
            raise NotFound("no media with this id is stored; upload it again")
        return self._sizes[media_id]

    async def put(self, data: bytes, field: str) -> str:
        """Store a file that is already in memory and return its id; `field` as in `writer`."""
        async with self.writer(field) as upload:
            await upload.write(data)
            return await upload.commit()

    @asynccontextmanager
    async def writer(self, field: str) -> AsyncIterator[Upload]:
        """Take a file piece by piece. What is not committed leaves no trace.

        Args:
            field: path of the request's field that holds the bytes, for errors.
        """
        with _usable():
            handle, name = tempfile.mkstemp(dir=self._directory / _INCOMING)
        upload = Upload(self, Path(name), os.fdopen(handle, "wb"), field)
        try:
            yield upload
        finally:
            upload.discard()

    async def open(self, media_id: str) -> BinaryIO:
        """Open a file for reading. It stays readable while it is open, even if it is dropped meanwhile.

        Raises:
            NotFound: no such media, or dropped since to make room.
        """
        self.size(media_id)
        self._sizes.move_to_end(media_id)
        with _usable():
            try:
                return await asyncio.to_thread(_open_touched, self._path(media_id))
            except FileNotFoundError:
                self._forget(media_id)
                raise NotFound("no media with this id is stored; upload it again") from None

    async def delete(self, media_id: str) -> None:
        """Drop a file; nothing happens if there is none."""
        if not self._forget(media_id):
            return
        # Out of the way at once: the same file may be stored again while the old one is being deleted.
        doomed = self._directory / _INCOMING / media_id
        with suppress(FileNotFoundError):
            self._path(media_id).replace(doomed)
        await asyncio.to_thread(doomed.unlink, missing_ok=True)

    async def add(self, media_id: str, size: int, temporary: Path) -> None:
        """Move a finished upload to its place and make room for it. For `Upload` alone."""
        with _usable():
            _move(temporary, self._path(media_id))
        self._forget(media_id)
        self._sizes[media_id] = size
        self._count(size)
        while self._used_bytes > self._config.quota_bytes and len(self._sizes) > 1:
            metrics.MEDIA_DROPPED.inc()
            await self.delete(next(iter(self._sizes)))

    def _forget(self, media_id: str) -> bool:
        """Take a file out of the index; whether it was there."""
        size = self._sizes.pop(media_id, None)
        self._count(-(size or 0))
        return size is not None

    def _count(self, added: int) -> None:
        self._used_bytes += added
        metrics.MEDIA_BYTES.set(self._used_bytes)

    def _path(self, media_id: str) -> Path:
        if not _MEDIA_ID.fullmatch(media_id):
            raise NotFound("no media with this id is stored; upload it again")
        return self._directory / media_id[:2] / media_id


class Upload:
    """A file on its way into the store."""

    def __init__(self, store: MediaStore, path: Path, file: BinaryIO, field: str) -> None:
        self._store = store
        self._path = path
        self._file = file
        self._field = field
        self._hash = hashlib.sha256()
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            BadMedia: the file grew over the limit.
        """
        self.size += len(chunk)
        limit = self._store.max_file_bytes
        if self.size > limit:
            raise BadMedia(self._field, f"the file is over the limit of {limit} bytes")
        with _usable():
            await asyncio.to_thread(self._append, chunk)

    async def commit(self) -> str:
        """Finish the file and return its id.

        Raises:
            BadMedia: the file is empty.
        """
        if not self.size:
            raise BadMedia(self._field, "the file is empty")
        with _usable():
            self._file.close()
        media_id = self._hash.hexdigest()
        await self._store.add(media_id, self.size, self._path)
        return media_id

    def discard(self) -> None:
        """Remove what was not committed."""
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _append(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._file.write(chunk)


@asynccontextmanager
async def open_media_store(config: MediaConfig) -> AsyncIterator[MediaStore]:
    """A store in the configured directory, or in a private one that ends with the block.

    Raises:
        ConfigError: the directory cannot be used.
    """
    if config.directory is not None:
        yield _open_store(config.directory, config)
        return
    with tempfile.TemporaryDirectory(prefix="internvl-media-", ignore_cleanup_errors=True) as directory:
        yield MediaStore(Path(directory), config)


@contextmanager
def _usable() -> Iterator[None]:
    """Raises Unavailable where the file system fails; the log says how."""
    try:
        yield
    except OSError as error:
        _log.error("media store failed", problem=error.strerror)
        raise Unavailable("the media store cannot be used") from error


def _open_store(directory: Path, config: MediaConfig) -> MediaStore:
    try:
        return MediaStore(directory, config)
    except OSError as error:
        raise ConfigError(f"--media-dir: cannot use {directory} ({error.strerror})") from None


def _scan(directory: Path) -> list[tuple[str, int]]:
    """Ids and sizes of the files of an earlier run, least recently used first."""
    found = []
    for path in directory.glob("[0-9a-f][0-9a-f]/*"):
        if _MEDIA_ID.fullmatch(path.name):
            status = path.stat()
            found.append((status.st_mtime_ns, path.name, status.st_size))
    return [(name, size) for _, name, size in sorted(found)]


def _open_touched(path: Path) -> BinaryIO:
    with suppress(OSError):
        os.utime(path)
    return path.open("rb")


def _move(temporary: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary.replace(path)
