"""Uploaded files, kept under the hash of their content and shown to who has brought them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway import metrics
from gateway.storage.adoption import adopt
from gateway.storage.loose_files import LooseFiles
from gateway.storage.media_files import LocalFiles, MediaFiles, RemoteFiles, usable_disk
from gateway.storage.media_index import Added, MediaBounds, MediaIndex, unknown_media
from internvl.errors import BadMedia, ConfigError, Unavailable

MIB = 2**20

# How many of the largest files may be held while the index is down.
_LOOSE_FILES = 4

_MEDIA_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """Where media is kept and how much of it.

    Attributes:
        directory: kept between runs: a path, or a URL that fsspec knows; None for a private directory that
            ends with the process.
        max_file_bytes: largest single file.
        quota_bytes: all files together; the least recently used are dropped to stay below it.
        min_file_bytes: smallest single file.
        tenant_quota_bytes: likewise for all files of one tenant; None for no bound of its own.
        time_to_live_s: how long a file is kept that nobody uses, in seconds; None for ever.
        idle_s: longest wait for the next bytes of an upload, in seconds.
    """

    directory: str | Path | None = None
    max_file_bytes: int = 256 * MIB
    quota_bytes: int = 4096 * MIB
    min_file_bytes: int = 1
    tenant_quota_bytes: int | None = None
    time_to_live_s: float | None = None
    idle_s: float = 30.0

    @property
    def bounds(self) -> MediaBounds:
        """How much is kept, and how long."""
        return MediaBounds(self.quota_bytes, self.tenant_quota_bytes, self.time_to_live_s)


class MediaStore:
    """Content-addressed files: the same bytes always have the same id, and are held once.

    A `media_id` is the SHA-256 of the content in 64 hexadecimal digits. Knowing one opens nothing: a tenant
    sees the files that it has brought itself. Every upload gets a place of its own and the index decides
    which one counts, so gateways that share both never delete what another has just stored. A storage that
    cannot be used, such as a full disk, is `Unavailable`; while only the index cannot, what comes with a
    question is held loosely, so that it can be answered.
    """

    def __init__(self, files: MediaFiles, index: MediaIndex, config: MediaConfig) -> None:
        self._files = files
        self._index = index
        self._config = config
        self._settling: set[asyncio.Task[str]] = set()
        self._loose = LooseFiles(files.incoming, _LOOSE_FILES * config.max_file_bytes)

    @property
    def config(self) -> MediaConfig:
        """What it was told."""
        return self._config

    async def visible(self, tenant: str, media_id: str) -> bool:
        """Whether a tenant may use a file, which counts as used now."""
        if not _MEDIA_ID.fullmatch(media_id):
            return False
        return self._loose.visible(tenant, media_id) or await self._index.touch(tenant, media_id)

    async def put(self, data: bytes, field: str, tenant: str) -> str:
        """Store a file that is already in memory and return its id; `field` and `tenant` as in `writer`."""
        async with self.writer(field, tenant) as upload:
            await upload.write(data)
            return await upload.commit(may_be_loose=True)

    @asynccontextmanager
    async def writer(self, field: str, tenant: str) -> AsyncIterator[Upload]:
        """Take a file piece by piece. What is not committed leaves no trace.

        Args:
            field: path of the request's field that holds the bytes, for errors.
            tenant: who may use it.
        """
        with usable_disk():
            handle, name = tempfile.mkstemp(dir=self._files.incoming)
        upload = Upload(self, Path(name), os.fdopen(handle, "wb"), field, tenant)
        try:
            yield upload
        finally:
            upload.discard()

    async def open(self, media_id: str) -> BinaryIO:
        """Open a file for reading. It stays readable while it is open, even if it is dropped meanwhile.

        Whether the caller may see it was asked when its turn came in.

        Raises:
            NotFound: no such media, or dropped since to make room.
        """
        if not _MEDIA_ID.fullmatch(media_id):
            raise unknown_media()
        if (loose := self._loose.find(media_id)) is not None:
            return await asyncio.to_thread(loose.open, "rb")
        place = await self._index.place(media_id)
        try:
            return await asyncio.to_thread(self._files.open, place)
        except FileNotFoundError:
            await self._index.lost(media_id, place)
            raise unknown_media() from None

    async def forget(self, tenant: str, media_id: str) -> None:
        """Let a tenant see a file no longer; nothing happens if it does not, or a conversation needs it."""
        await self._delete(await self._index.forget(tenant, media_id))

    async def sweep(self) -> None:
        """Drop what nobody has used for too long."""
        if self._config.time_to_live_s is not None:
            await self._delete(await self._index.sweep(self._config.time_to_live_s))
        metrics.MEDIA_BYTES.set(await self._index.used_bytes())

    async def settle(self, tenant: str, media_id: str, size: int, temporary: Path) -> str:
        """Keep a finished upload and return its id. For `Upload` alone.

        Once begun it is finished, whoever is cancelled: files and index must agree.
        """
        task = asyncio.create_task(self._settle(tenant, media_id, size, temporary))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for uploads whose callers have left, and delete what was held loosely."""
        if self._settling:
            await asyncio.wait(self._settling)
        self._loose.clear()

    def hold(self, tenant: str, media_id: str, size: int, temporary: Path) -> str:
        """Keep a finished upload while the index is down. For `Upload` alone."""
        with usable_disk():
            self._loose.keep(tenant, media_id, temporary, size)
        return media_id

    async def adopt(self, tenant: str | None) -> None:
        """Let a tenant see what an earlier run left and the index does not know; None lets nobody."""
        if tenant is None:
            return
        await self._delete(await adopt(self._files, self._index, tenant, self._config.bounds))

    async def _settle(self, tenant: str, media_id: str, size: int, temporary: Path) -> str:
        bounds = self._config.bounds
        added = await self._brought_before(tenant, media_id, size)
        if added is None:
            place = f"{media_id[:2]}/{media_id}.{secrets.token_hex(4)}"
            await asyncio.to_thread(self._files.keep, temporary, place)
            try:
                added = await self._index.add(tenant, media_id, size, place, bounds)
            except BaseException:
                await asyncio.to_thread(self._files.delete, place)
                raise
            if added is not None and added.place != place:  # another gateway was first with the same file
                await asyncio.to_thread(self._files.delete, place)
        if added is not None:
            await self._delete(added.dropped)
        metrics.MEDIA_BYTES.set(await self._index.used_bytes())
        return media_id

    async def _brought_before(self, tenant: str, media_id: str, size: int) -> Added | None:
        """Let a tenant see a file that somebody has brought before; None if there is none.

        An index may outlive the bytes: then the upload is the only copy, and must not be thrown away.
        """
        added = await self._index.add(tenant, media_id, size, "", self._config.bounds)
        if added is None or await asyncio.to_thread(self._files.has, added.place):
            return added
        await self._index.lost(media_id, added.place)
        await self._delete(added.dropped)
        return None

    async def _delete(self, places: Iterable[str]) -> None:
        for place in places:
            metrics.MEDIA_DROPPED.inc()
            with suppress(Unavailable):  # nobody sees it any longer; the log has the place's trouble
                await asyncio.to_thread(self._files.delete, place)


class Upload:
    """A file on its way into the store."""

    def __init__(self, store: MediaStore, path: Path, file: BinaryIO, field: str, tenant: str) -> None:
        self._store = store
        self._path = path
        self._file = file
        self._field = field
        self._tenant = tenant
        self._hash = hashlib.sha256()
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            BadMedia: the file grew over the limit.
        """
        self.size += len(chunk)
        limit = self._store.config.max_file_bytes
        if self.size > limit:
            raise BadMedia(self._field, f"the file is over the limit of {limit} bytes")
        with usable_disk():
            await asyncio.to_thread(self._append, chunk)

    async def commit(self, *, may_be_loose: bool = False) -> str:
        """Finish the file and return its id.

        Args:
            may_be_loose: whether it need not outlive its turn, so that it does without an index that is down.

        Raises:
            BadMedia: the file is empty, or smaller than any that is taken.
            FailedPrecondition: conversations need all that would have to go for it.
        """
        if not self.size:
            raise BadMedia(self._field, "the file is empty")
        least = self._store.config.min_file_bytes
        if self.size < least:
            raise BadMedia(self._field, f"the file is below the least size of {least} bytes")
        with usable_disk():
            self._file.close()
        media_id = self._hash.hexdigest()
        try:
            return await self._store.settle(self._tenant, media_id, self.size, self._path)
        except Unavailable:
            if not may_be_loose or not self._path.exists():
                raise
            return self._store.hold(self._tenant, media_id, self.size, self._path)

    def discard(self) -> None:
        """Remove what was not committed."""
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _append(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._file.write(chunk)


@asynccontextmanager
async def open_media_store(
    config: MediaConfig, index: MediaIndex, *, adopt_for: str | None = None
) -> AsyncIterator[MediaStore]:
    """A store in the configured place, or in a private one that ends with the block.

    Args:
        config: where and how much.
        index: what the store of conversations knows of media.
        adopt_for: tenant that gets the files that an earlier index knew; None for nobody.

    Raises:
        ConfigError: the place cannot be used.
    """
    if config.directory is None:
        with tempfile.TemporaryDirectory(prefix="internvl-media-", ignore_cleanup_errors=True) as directory:
            store = MediaStore(LocalFiles(Path(directory)), index, config)
            yield store
            await store.close()
        return
    store = MediaStore(_open_files(str(config.directory)), index, config)
    with suppress(Unavailable):  # the index may come later
        await store.adopt(adopt_for)
    yield store
    await store.close()


def _open_files(where: str) -> MediaFiles:
    if "://" in where:
        return RemoteFiles(where)
    try:
        return LocalFiles(Path(where))
    except OSError as error:
        raise ConfigError(f"--media-dir: cannot use {where} ({error.strerror})") from None
