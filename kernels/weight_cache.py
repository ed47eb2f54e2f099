"""Packed weights on disk, so that the next start copies them instead of packing them again.

A file holds all weights of one part of a model, in safetensors format, with a checksum for each. Its name is
a hash of what it was made from and how: fingerprint, layout, names and sizes. It is written under another
name first, and never changed. Whatever is wrong with the folder or a file costs time, and a line in the log.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from internvl.atomic_file import atomic_write, delete_abandoned
from internvl.checkpoint.reader import Checkpoint
from internvl.model_choice import WeightCacheChoice
from internvl.telemetry import get_logger
from kernels.packed_file import Blob, DamagedFile, read_packed, write_packed, written_size

_log = get_logger("weights")

_SUFFIX = ".weights"

# Left free on the disk whatever the limit says.
_SPARE = 1 << 30


@dataclass(frozen=True, slots=True)
class WeightCache:
    """A folder of packed weights."""

    folder: Path
    limit_bytes: int

    @classmethod
    def of(cls, choice: WeightCacheChoice | None) -> WeightCache | None:
        """The cache that was chosen, if any."""
        return None if choice is None else cls(choice.folder, choice.limit_bytes)

    def read(self, key: str, sizes: Mapping[str, int], room: Callable[[str], Blob]) -> dict[str, Blob] | None:
        """The weights under `key`, or None.

        Args:
            sizes: names and bytes of what must be there.
            room: makes the memory that one of them is read into.
        """
        path = self._path(key)
        try:
            blobs = read_packed(path, key, sizes, room)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (DamagedFile, OSError) as error:
            _log.warning("packed weights not used, packing again", reason=_reason(error))
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        _log.info("packed weights read", bytes=sum(sizes.values()))
        return blobs

    def takes(self, size: int) -> bool:
        """Whether so many bytes are within the limit."""
        return size <= self.limit_bytes

    def write(self, key: str, blobs: Mapping[str, Blob]) -> threading.Thread:
        """Keep weights under `key`, on a thread that may be left behind when the process ends.

        Of several processes one writes; the others leave it to that one.
        """
        thread = threading.Thread(target=self._write, args=(key, blobs), name="weight-cache", daemon=True)
        thread.start()
        return thread

    def _write(self, key: str, blobs: Mapping[str, Blob]) -> None:
        # Serving comes first; on Linux niceness is the thread's own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        size = written_size(key, blobs)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._make_room(size):
                _log.info("packed weights not kept", bytes=size, reason="no room", limit=self.limit_bytes)
                return
            if self._path(key).exists():
                return
            with atomic_write(self._path(key), mode=0o600) as file:
                write_packed(file, key, blobs)
        except BlockingIOError:
            return
        except OSError as error:
            _log.warning("packed weights not kept", reason=_reason(error))
            return
        _log.info("packed weights kept", bytes=size)

    def _make_room(self, size: int) -> bool:
        """Delete what nobody finishes, then the least recently used, until `size` bytes fit."""
        if not self.takes(size):
            return False
        delete_abandoned(self.folder)
        kept = [(path, path.stat()) for path in self.folder.glob(f"*{_SUFFIX}")]
        oldest_first = sorted(kept, key=lambda each: each[1].st_mtime)
        held = sum(stat.st_size for _, stat in kept)
        for path, stat in oldest_first:
            if held + size <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            held -= stat.st_size
        return shutil.disk_usage(self.folder).free > size + _SPARE

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class CachedPart:
    """The place of one part of a checkpoint in a cache."""

    cache: WeightCache
    checkpoint: Checkpoint
    prefix: str | tuple[str, ...]

    def read(
        self, layout: str, sizes: Mapping[str, int], room: Callable[[str], Blob]
    ) -> dict[str, Blob] | None:
        """As `WeightCache.read`; None too if the fingerprint would take reading the checkpoint."""
        fingerprint = self.checkpoint.known_fingerprint(self.prefix)
        return None if fingerprint is None else self.cache.read(_key(fingerprint, layout, sizes), sizes, room)

    def replaces(self, size: int) -> bool:
        """Whether so many packed bytes are kept, so that the next start does not read the checkpoint."""
        return self.cache.takes(size)

    def forget(self, name: str) -> None:
        """As `Checkpoint.forget`."""
        self.checkpoint.forget(name)

    def write(self, layout: str, blobs: Mapping[str, Blob]) -> threading.Thread:
        """As `WeightCache.write`, of what was packed from the whole checkpoint."""
        sizes = {name: blob.nbytes for name, blob in blobs.items()}
        return self.cache.write(_key(self.checkpoint.fingerprint(self.prefix), layout, sizes), blobs)


def cached_part(
    choice: WeightCacheChoice | None, checkpoint: Checkpoint, prefix: str | tuple[str, ...]
) -> CachedPart | None:
    """The place of the tensors under `prefix` in the chosen cache."""
    cache = WeightCache.of(choice)
    return None if cache is None else CachedPart(cache, checkpoint, prefix)


def _key(fingerprint: str, layout: str, sizes: Mapping[str, int]) -> str:
    return hashlib.sha256(repr((fingerprint, layout, sorted(sizes.items()))).encode()).hexdigest()[:40]


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
