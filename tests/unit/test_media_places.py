"""Places for media that are far, unknown, or without an index."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.storage.media_store import MediaConfig, MediaStore, open_media_store
from gateway.storage.store import MEMORY, open_store
from internvl.errors import ConfigError, Unavailable
from tests.unit.event_loop import bounded
from tests.unit.redis_server import RedisServer


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def read(store: MediaStore, media_id: str) -> bytes:
    with await store.open(media_id) as file:
        return file.read()


def test_files_may_be_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)

    @bounded
    async def work() -> None:
        import s3fs

        system = s3fs.S3FileSystem(skip_instance_cache=True)
        await asyncio.to_thread(system.mkdir, "pictures")
        config = MediaConfig("s3://pictures/of/ours")
        async with open_store(MEMORY) as kept, open_media_store(config, kept.media) as media:
            content = b"0123456789" * 700_000
            media_id = await media.put(content, "image", "ann")
            assert await read(media, media_id) == content
            (found,) = await asyncio.to_thread(system.find, "pictures")
            assert found.startswith(f"pictures/of/ours/{media_id[:2]}/{media_id}.")
            await media.forget("ann", media_id)
            system.invalidate_cache()
            assert await asyncio.to_thread(system.find, "pictures") == []

    try:
        work()
    finally:
        server.stop()


def test_place_that_nobody_knows_is_refused_by_flag() -> None:
    async def work() -> None:
        async with open_store(MEMORY) as kept, open_media_store(MediaConfig("nowhere://x"), kept.media):
            pass

    with pytest.raises(ConfigError, match="--media-dir"):
        asyncio.run(work())


def test_without_its_index_a_store_still_serves_what_comes_with_a_question(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    @bounded
    async def work() -> None:
        config = MediaConfig(tmp_path / "media", max_file_bytes=100)
        async with open_store(server.url) as kept, open_media_store(config, kept.media) as media:
            for text in (b"1", b"2", b"1", b"3", b"4", b"5"):
                assert await read(media, await media.put(text * 80, "image", "")) == text * 80
            assert len(files(tmp_path / "media")) == 5
            media_id = await media.put(b"5" * 80, "image", "")
            assert await media.visible("", media_id)
            with pytest.raises(Unavailable):
                await media.visible("bob", media_id)
            async with media.writer("chunk", "") as upload:
                await upload.write(b"keep this")
                with pytest.raises(Unavailable):
                    await upload.commit()
        assert files(tmp_path / "media") == []

    work()
