"""What every index of media must do, with two gateways that share it, wherever the files are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import fsspec
import pytest

from gateway.content import ImageOptions, Media, Message, Role
from gateway.storage.conversations import StoredTurn, TurnOutcome
from gateway.storage.media_store import MediaConfig, MediaStore, open_media_store
from gateway.storage.store import Store, open_store
from internvl.errors import FailedPrecondition, NotFound
from tests.unit.event_loop import bounded
from tests.unit.redis_server import RedisServer

Gateway = tuple[Store, MediaStore]
Open = Callable[[MediaConfig], AbstractAsyncContextManager[tuple[Gateway, Gateway]]]


@pytest.fixture(params=["file", "redis"])
def open_gateways(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    where = str(tmp_path / "kept.db")
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        server.flush()
        where = server.url

    @asynccontextmanager
    async def both(config: MediaConfig) -> AsyncIterator[tuple[Gateway, Gateway]]:
        async with (
            open_store(where) as one,
            open_store(where) as two,
            open_media_store(config, one.media) as media_one,
            open_media_store(config, two.media) as media_two,
        ):
            yield (one, media_one), (two, media_two)

    return both


def run(
    open_gateways: Open, config: MediaConfig, work: Callable[[Gateway, Gateway], Awaitable[None]]
) -> None:
    @bounded
    async def within() -> None:
        async with open_gateways(config) as (one, two):
            await work(one, two)

    within()


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def showing(*media_ids: str) -> StoredTurn:
    parts = tuple(Media(media_id, ImageOptions()) for media_id in media_ids)
    return StoredTurn("turn", (Message(Role.USER, parts),), TurnOutcome.STOP)


async def read(store: MediaStore, media_id: str) -> bytes:
    with await store.open(media_id) as file:
        return file.read()


def test_knowing_a_hash_opens_nothing(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        media_id = await one[1].put(b"picture", "image", "ann")
        assert await two[1].visible("ann", media_id)
        assert not await two[1].visible("bob", media_id)
        assert not await two[1].visible("", media_id)
        assert await two[1].put(b"picture", "image", "bob") == media_id
        assert await one[1].visible("bob", media_id)
        assert len(files(tmp_path / "media")) == 1

    run(open_gateways, MediaConfig(tmp_path / "media"), work)


def test_looking_for_a_file_is_no_use_of_it(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        older, newer = [await one[1].put(content, "image", "ann") for content in (b"1" * 40, b"2" * 40)]
        (path,) = (tmp_path / "media").glob(f"*/{older}.*")
        assert await two[0].media.find(older) == f"{path.parent.name}/{path.name}"
        assert await two[0].media.find("0" * 64) is None
        await one[1].put(b"3" * 40, "image", "ann")
        assert [await two[0].media.find(each) is None for each in (older, newer)] == [True, False]

    run(open_gateways, MediaConfig(tmp_path / "media", quota_bytes=80), work)


def test_file_of_two_tenants_goes_with_the_last_of_them(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        media_id = await one[1].put(b"picture", "image", "ann")
        await two[1].put(b"picture", "image", "bob")
        await one[1].forget("ann", media_id)
        assert not await two[1].visible("ann", media_id)
        assert await read(two[1], media_id) == b"picture"
        await two[1].forget("bob", media_id)
        assert files(tmp_path / "media") == []
        with pytest.raises(NotFound):
            await one[1].open(media_id)

    run(open_gateways, MediaConfig(tmp_path / "media"), work)


def test_same_file_at_both_gateways_at_once_is_kept_once(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        (media_id,) = set(
            await asyncio.gather(
                *(media.put(b"picture" * 1000, "image", "ann") for _, media in (one, two) * 8)
            )
        )
        assert len(files(tmp_path / "media")) == 1
        assert await read(one[1], media_id) == b"picture" * 1000
        assert await one[0].media.used_bytes() == 7000

    run(open_gateways, MediaConfig(tmp_path / "media"), work)


def test_dropping_and_storing_a_file_at_once_never_loses_it(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        media_id = await one[1].put(b"picture", "image", "ann")
        for _ in range(20):
            await asyncio.gather(
                one[1].forget("ann", media_id), two[1].put(b"picture", "image", "bob"), return_exceptions=True
            )
            assert await read(two[1], media_id) == b"picture"
            await asyncio.gather(two[1].forget("bob", media_id), one[1].put(b"picture", "image", "ann"))
            assert await read(one[1], media_id) == b"picture"

    run(open_gateways, MediaConfig(tmp_path / "media"), work)


def test_upload_of_a_file_whose_bytes_are_lost_is_kept_anew(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        media_id = await one[1].put(b"picture", "image", "ann")
        (path,) = files(tmp_path / "media")
        path.unlink()
        assert await two[1].put(b"picture", "image", "bob") == media_id
        assert await read(one[1], media_id) == b"picture"
        assert await one[1].visible("bob", media_id)
        assert await one[0].media.used_bytes() == 7

    run(open_gateways, MediaConfig(tmp_path / "media"), work)


def test_file_brought_anew_is_not_lost_to_who_missed_its_old_bytes(
    open_gateways: Open, tmp_path: Path
) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        media_id = await one[1].put(b"picture", "image", "ann")
        old = await one[0].media.place(media_id)
        (path,) = files(tmp_path / "media")
        path.unlink()
        await two[1].put(b"picture", "image", "ann")
        await one[0].media.lost(media_id, old)
        assert await one[1].visible("ann", media_id)
        assert await read(one[1], media_id) == b"picture"

    run(open_gateways, MediaConfig(tmp_path / "media"), work)


def test_tenant_makes_room_among_its_own(open_gateways: Open, tmp_path: Path) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        other = await one[1].put(b"o" * 40, "image", "bob")
        first, second = [await one[1].put(text * 40, "image", "ann") for text in (b"1", b"2")]
        assert await two[1].visible("ann", first)
        third = await two[1].put(b"3" * 40, "image", "ann")
        assert [await one[1].visible("ann", name) for name in (first, second, third)] == [True, False, True]
        assert await one[1].visible("bob", other)

    config = MediaConfig(tmp_path / "media", max_file_bytes=50, quota_bytes=1000, tenant_quota_bytes=100)
    run(open_gateways, config, work)


def test_what_conversations_show_is_not_dropped_and_then_there_is_no_room(
    open_gateways: Open, tmp_path: Path
) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        shown, idle = [await one[1].put(text * 40, "image", "ann") for text in (b"1", b"2")]
        conversation = await one[0].conversations.create("ann")
        await one[0].conversations.append("ann", conversation.conversation_id, 0, showing(shown))
        fork = await two[0].conversations.fork("ann", conversation.conversation_id)
        third = await two[1].put(b"3" * 40, "image", "bob")
        assert [await two[1].visible("ann", name) for name in (shown, idle)] == [True, False]
        await one[1].forget("ann", shown)
        assert await one[1].visible("ann", shown)
        with pytest.raises(FailedPrecondition, match="used up by conversations"):
            await two[1].put(b"4" * 90, "image", "bob")
        assert await one[1].visible("bob", third)  # what was refused has dropped nothing
        await one[0].conversations.delete("ann", conversation.conversation_id)
        with pytest.raises(FailedPrecondition):
            await two[1].put(b"4" * 90, "image", "bob")
        await one[0].conversations.delete("ann", fork.conversation_id)
        assert await two[1].visible("bob", await two[1].put(b"4" * 90, "image", "bob"))
        assert not await two[1].visible("ann", shown)

    run(open_gateways, MediaConfig(tmp_path / "media", max_file_bytes=100, quota_bytes=100), work)


def test_time_ends_for_what_nobody_uses_and_no_conversation_shows(
    open_gateways: Open, tmp_path: Path
) -> None:
    async def work(one: Gateway, two: Gateway) -> None:
        shown, idle = [await one[1].put(text, "image", "ann") for text in (b"1", b"2")]
        conversation = await one[0].conversations.create("ann", time_to_live_s=3600.0)
        await one[0].conversations.append("ann", conversation.conversation_id, 0, showing(shown))
        await two[1].sweep()
        assert [await one[1].visible("ann", name) for name in (shown, idle)] == [True, False]
        assert len(files(tmp_path / "media")) == 1
        await one[0].conversations.update("ann", conversation.conversation_id, time_to_live_s=1e-6)
        assert await two[0].conversations.sweep() == 1
        await one[1].sweep()
        assert files(tmp_path / "media") == []

    run(open_gateways, MediaConfig(tmp_path / "media", time_to_live_s=0.0), work)


@pytest.mark.parametrize("url", ["memory://media", "file://{}"])
def test_files_may_be_anywhere_that_fsspec_reaches(open_gateways: Open, tmp_path: Path, url: str) -> None:
    url = url.format(tmp_path / "far")

    async def work(one: Gateway, two: Gateway) -> None:
        content = bytes(range(256)) * 40_000
        media_id = await one[1].put(content, "image", "ann")
        with await two[1].open(media_id) as file:
            assert file.seek(0, 2) == len(content)
            file.seek(0)
            assert file.read() == content
        system, root = fsspec.core.url_to_fs(url)
        (found,) = system.find(root)
        assert system.size(found) == len(content)
        system.rm_file(found)
        assert await two[1].put(content, "image", "ann") == media_id
        assert await read(one[1], media_id) == content
        (found,) = system.find(root)
        system.rm_file(found)
        with pytest.raises(NotFound):
            await one[1].open(media_id)
        assert await two[1].put(content, "image", "ann") == media_id
        await one[1].forget("ann", media_id)
        assert system.find(root) == []

    run(open_gateways, MediaConfig(url), work)
