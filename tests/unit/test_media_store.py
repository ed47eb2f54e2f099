"""The media store: content-addressed, bounded, and deaf to tricks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.storage.media_store import MIB, MediaConfig, MediaStore, open_media_store
from gateway.storage.store import MEMORY, open_store
from internvl.errors import BadMedia, NotFound, Unavailable


def run(config: MediaConfig, work: Callable[[MediaStore], Awaitable[None]]) -> None:
    async def within() -> None:
        async with open_store(MEMORY) as kept, open_media_store(config, kept.media, adopt_for="") as store:
            await work(store)

    asyncio.run(asyncio.wait_for(within(), 30))


async def read(store: MediaStore, media_id: str) -> bytes:
    with await store.open(media_id) as file:
        return file.read()


def files(directory: Path) -> list[str]:
    """Names of all files, without what tells one upload of a content from another."""
    return sorted(path.name.partition(".")[0] for path in directory.rglob("*") if path.is_file())


async def used_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_id_is_the_hash_of_the_content(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        media_id = await store.put(b"picture", "image", "")
        assert media_id == hashlib.sha256(b"picture").hexdigest()
        assert await read(store, media_id) == b"picture"
        assert await used_bytes(tmp_path) == 7
        assert await store.put(b"picture", "image", "") == media_id
        assert await used_bytes(tmp_path) == 7
        assert files(tmp_path) == [media_id]

    run(MediaConfig(tmp_path), work)


def test_pieces_make_the_same_file(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        async with store.writer("chunk", "") as upload:
            for piece in (b"pic", b"", b"ture"):
                await upload.write(piece)
            media_id = await upload.commit()
        assert media_id == hashlib.sha256(b"picture").hexdigest()

    run(MediaConfig(tmp_path), work)


def test_limit_holds_while_the_file_arrives(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        async with store.writer("chunk", "") as upload:
            await upload.write(b"x" * 10)
            with pytest.raises(BadMedia, match=r"chunk: .* 10 bytes"):
                await upload.write(b"x")
        assert files(tmp_path) == []

    run(MediaConfig(tmp_path, max_file_bytes=10), work)


def test_abandoned_upload_leaves_no_trace(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        async with store.writer("chunk", "") as upload:
            await upload.write(b"half")
            assert len(files(tmp_path)) == 1
        assert files(tmp_path) == []

    run(MediaConfig(tmp_path), work)


def test_upload_cancelled_in_its_commit_is_stored_or_leaves_no_trace(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        async def upload() -> None:
            await store.put(b"picture", "image", "")

        for steps in range(12):  # cancel it ever later, until it is through
            task = asyncio.create_task(upload())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await store.close()
        for name in files(tmp_path):
            assert await store.visible("", name)

    run(MediaConfig(tmp_path), work)


def test_lost_directory_is_unavailable(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        (tmp_path / "incoming").rmdir()
        with pytest.raises(Unavailable, match="the media store cannot be used"):
            await store.put(b"picture", "image", "")

    run(MediaConfig(tmp_path), work)


def test_full_disk_is_unavailable(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        with files_of_at_most(MIB), pytest.raises(Unavailable, match="the media store cannot be used"):
            await store.put(b"x" * 2 * MIB, "image", "")
        assert files(tmp_path) == []

    run(MediaConfig(tmp_path), work)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let this process write no longer files: what a full disk looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_least_recently_used_is_dropped_at_the_quota(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        first, second = await store.put(b"1" * 40, "image", ""), await store.put(b"2" * 40, "image", "")
        await read(store, first)
        third = await store.put(b"3" * 40, "image", "")
        assert not await store.visible("", second)
        with pytest.raises(NotFound):
            await store.open(second)
        assert await used_bytes(tmp_path) == 80
        assert files(tmp_path) == sorted([first, third])

    run(MediaConfig(tmp_path, max_file_bytes=50, quota_bytes=100), work)


def test_open_file_outlives_its_drop(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        media_id = await store.put(b"picture", "image", "")
        with await store.open(media_id) as file:
            await store.forget("", media_id)
            assert file.read() == b"picture"
        assert not await store.visible("", media_id)

    run(MediaConfig(tmp_path), work)


def test_next_process_finds_the_files_and_their_order(tmp_path: Path) -> None:
    names: list[str] = []

    async def fill(store: MediaStore) -> None:
        for number in range(3):
            names.append(await store.put(bytes([number]) * 40, "image", ""))

    async def reopen(store: MediaStore) -> None:
        assert await used_bytes(tmp_path) == 120
        await store.put(b"new" * 10, "image", "")
        assert [await store.visible("", name) for name in names] == [True, False, True]

    run(MediaConfig(tmp_path, quota_bytes=120), fill)
    for age, number in ((30, 1), (20, 0), (10, 2)):
        (path,) = tmp_path.glob(f"*/{names[number]}.*")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    leftover = tmp_path / "incoming" / "leftover"
    leftover.write_bytes(b"half a file")
    os.utime(leftover, (0, 0))
    run(MediaConfig(tmp_path, quota_bytes=120), reopen)
    assert "leftover" not in files(tmp_path)


def test_next_process_does_not_begin_the_time_of_a_file_anew(tmp_path: Path) -> None:
    """Else nothing would ever expire in a gateway that is restarted more often than that."""
    directory = tmp_path / "media"
    config = MediaConfig(directory, time_to_live_s=1000.0)

    async def within(kept_in: str, work: Callable[[MediaStore], Awaitable[None]]) -> None:
        async with open_store(kept_in) as kept, open_media_store(config, kept.media, adopt_for="") as store:
            await work(store)

    async def fill(store: MediaStore) -> None:
        await store.put(b"picture", "image", "")

    async def nothing_is_left(store: MediaStore) -> None:
        await store.sweep()
        assert files(directory) == []

    # As an index that is gone leaves it: only the file tells when it was used.
    asyncio.run(within(MEMORY, fill))
    (path,) = directory.glob("*/*")
    os.utime(path, (path.stat().st_mtime - 2000,) * 2)
    asyncio.run(within(MEMORY, nothing_is_left))

    # As an index that is still there knows it.
    database = tmp_path / "kept.db"
    asyncio.run(within(str(database), fill))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE media SET used = used - 2000")
    asyncio.run(within(str(database), nothing_is_left))


def test_next_process_shows_nobody_what_the_index_knows_to_be_anothers(tmp_path: Path) -> None:
    database = str(tmp_path / "kept.db")
    config = MediaConfig(tmp_path / "media")

    async def work() -> None:
        async with open_store(database) as kept, open_media_store(config, kept.media) as store:
            media_id = await store.put(b"picture", "image", "ann")
        async with open_store(database) as kept, open_media_store(config, kept.media, adopt_for="") as store:
            assert not await store.visible("", media_id)
            assert await store.visible("ann", media_id)

    asyncio.run(work())


@pytest.mark.parametrize("media_id", ["", "..", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_ids_that_are_no_hash_are_not_found(tmp_path: Path, media_id: str) -> None:
    async def work(store: MediaStore) -> None:
        assert not await store.visible("", media_id)
        with pytest.raises(NotFound):
            await store.open(media_id)
        await store.forget("", media_id)

    run(MediaConfig(tmp_path), work)


def test_file_removed_behind_its_back_is_not_found(tmp_path: Path) -> None:
    async def work(store: MediaStore) -> None:
        media_id = await store.put(b"picture", "image", "")
        (path,) = tmp_path.glob(f"*/{media_id}.*")
        path.unlink()
        with pytest.raises(NotFound):
            await store.open(media_id)
        assert not await store.visible("", media_id)
        assert await store.put(b"picture", "image", "") == media_id
        assert await read(store, media_id) == b"picture"

    run(MediaConfig(tmp_path), work)


def test_private_directory_ends_with_the_store() -> None:
    found: list[Path] = []

    async def work(store: MediaStore) -> None:
        media_id = await store.put(b"picture", "image", "")
        with await store.open(media_id) as file:
            found.append(Path(file.name))
            assert found[0].exists()

    run(MediaConfig(), work)
    assert not found[0].exists()
