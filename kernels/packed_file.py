"""One file of packed weights: a safetensors header with checksums, then the bytes back to back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from kernels.mapped_file import MappedFile

Blob: TypeAlias = NDArray[np.uint8]

# Checked while they are still in the processor's cache.
_PIECE = 4 << 20
# What may wait to be written, and what the system keeps of a file: memory is for those who serve meanwhile.
_UNSYNCED = 256 << 20
_LONGEST_HEADER = 16 << 20
_READERS = 2


class DamagedFile(Exception):
    """A file that does not hold what it should; the message says what is wrong."""


def written_size(key: str, blobs: Mapping[str, Blob]) -> int:
    """Bytes of the file that `write_packed` makes."""
    return len(_header(key, blobs, {})) + sum(blob.nbytes for blob in blobs.values())


def write_packed(file: BinaryIO, key: str, blobs: Mapping[str, Blob]) -> None:
    """Write a whole file. The header comes last, when the checksums are known; its length never changes."""
    sums: dict[str, str] = {}
    descriptor, unsynced = file.fileno(), 0
    offset = len(_header(key, blobs, sums))
    for name, blob in blobs.items():
        digest = xxhash.xxh3_64()
        for piece in _pieces(blob, offset):
            digest.update(piece)
            offset = _write_all(descriptor, piece, offset)
            unsynced += len(piece)
            if unsynced >= _UNSYNCED:
                os.fdatasync(descriptor)
                unsynced = 0
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        sums[name] = digest.hexdigest()
    _write_all(descriptor, memoryview(_header(key, blobs, sums)), 0)


def read_packed(
    path: Path, key: str, sizes: Mapping[str, int], room: Callable[[str], Blob]
) -> dict[str, Blob]:
    """Take a whole file into memory, and check every byte.

    Args:
        room: makes memory for a name, which its bytes are copied to where the file's own pages are small.

    Raises:
        DamagedFile: it is not the file of this key, these names and sizes, or a checksum is wrong.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        begin, sums = _checked_header(descriptor, key, sizes)
        offsets = dict(zip(sizes, np.cumsum([begin, *sizes.values()]).tolist(), strict=False))
        mapped = _mapped(descriptor, offsets, sizes, sums)
        return mapped or _copied(descriptor, offsets, sums, room)


def _mapped(
    file: int, offsets: Mapping[str, int], sizes: Mapping[str, int], sums: Mapping[str, str]
) -> dict[str, Blob] | None:
    """The bytes in the pages of the file, or None where these are not large."""
    try:
        mapped = MappedFile(file)

        def check(name: str) -> tuple[str, Blob]:
            offset, digest = offsets[name], xxhash.xxh3_64()
            blob = mapped.bytes[offset : offset + sizes[name]]
            for piece in _pieces(blob, offset):
                mapped.fetch(offset, offset + len(piece))
                digest.update(piece)
                offset += len(piece)
            _compare(name, digest.hexdigest(), sums)
            return name, blob

        blobs = _with_threads(check, offsets)
    except OSError:
        return None
    if not mapped.is_in_large_pages():
        return None
    mapped.lock()
    return blobs


def _copied(
    file: int, offsets: Mapping[str, int], sums: Mapping[str, str], room: Callable[[str], Blob]
) -> dict[str, Blob]:
    def read(name: str) -> tuple[str, Blob]:
        blob = room(name)
        _compare(name, _read(file, blob, offsets[name]), sums)
        return name, blob

    return _with_threads(read, offsets)


def _with_threads(take: Callable[[str], tuple[str, Blob]], names: Iterable[str]) -> dict[str, Blob]:
    with ThreadPoolExecutor(_READERS, "packed-weights") as readers:
        return dict(readers.map(take, names))


def _compare(name: str, found: str, sums: Mapping[str, str]) -> None:
    if found != sums[name]:
        raise DamagedFile(f"wrong checksum of {name}")


def _header(key: str, blobs: Mapping[str, Blob], sums: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {
        "__metadata__": {"key": key} | {name: sums.get(name, "0" * 16) for name in blobs}
    }
    offset = 0
    for name, blob in blobs.items():
        end = offset + blob.nbytes
        header[name] = {"dtype": "U8", "shape": [blob.nbytes], "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(len(encoded) + 8) % 4096)
    return len(encoded).to_bytes(8, "little") + encoded


def _checked_header(file: int, key: str, sizes: Mapping[str, int]) -> tuple[int, dict[str, str]]:
    """Where the data begins, and the checksums."""
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if not 0 < length <= _LONGEST_HEADER:
        raise DamagedFile("no header")
    try:
        header = json.loads(os.pread(file, length, 8))
        sums = header.pop("__metadata__")
        found = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise DamagedFile("no readable header") from None
    if not isinstance(sums, dict) or sums.pop("key", None) != key:
        raise DamagedFile("made from other weights")
    if list(found.items()) != list(sizes.items()) or sums.keys() != sizes.keys():
        raise DamagedFile("other tensors than expected")
    begin = 8 + length
    if os.fstat(file).st_size != begin + sum(sizes.values()):
        raise DamagedFile("wrong size")
    return begin, sums


def _read(file: int, into: Blob, offset: int) -> str:
    """Fill `into`; the checksum of what came."""
    digest = xxhash.xxh3_64()
    for piece in _pieces(into, offset):
        left = piece
        while left:
            count = os.preadv(file, [left], offset)
            if not count:
                raise DamagedFile("wrong size")
            left, offset = left[count:], offset + count
        digest.update(piece)
    return digest.hexdigest()


def _write_all(file: int, piece: memoryview, offset: int) -> int:
    """The offset behind what was written."""
    while piece:
        count = os.pwrite(file, piece, offset)
        piece, offset = piece[count:], offset + count
    return offset


def _pieces(blob: Blob, offset: int) -> Iterator[memoryview]:
    """Cut where the file's large pages begin, which Linux makes of what is written in one go."""
    whole, start = blob.data, 0
    while start < len(whole):
        end = start + _PIECE - (offset + start) % _PIECE
        yield whole[start:end]
        start = end
