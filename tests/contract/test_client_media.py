"""Pictures and films as the client takes them: paths, bytes, Pillow's, and uploads."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from internvl_client import AsyncClient, BadMedia, Client, Image, Media
from internvl_client.requests import MAX_INLINE_BYTES
from tests.contract.both_clients import Both, in_thread
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, bounded, gateway_stack


@in_thread
def test_pictures_come_from_paths_bytes_pillow_and_uploads(stack: Stack, client: Client) -> None:
    from PIL import Image as PilImage

    media = client.upload(picture(2))
    assert media.info is not None
    assert (media.info.kind, media.info.size_bytes) == ("image", len(picture(2)))
    assert client.upload(media) is media
    for source in (picture(2), media, Media(media.media_id), Image(media)):
        client.chat("look", images=[source]).result()
    assert stack.vision.encoded == [(picture(2), 0)]
    drawn = PilImage.new("RGB", (3, 2), "red")
    with pytest.raises(BadMedia):  # the stand-in takes no PNG, but it shows what arrived
        client.chat("look", images=[drawn]).result()
    sent = PilImage.open(io.BytesIO(stack.vision.encoded[-1][0]))
    assert (sent.format, sent.size) == ("PNG", (3, 2))


@bounded
async def test_files_are_read_from_disk_and_large_ones_uploaded_first(tmp_path: Path) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    large.write_bytes(picture(2, "x" * MAX_INLINE_BYTES))
    small.write_bytes(picture(1))
    async with gateway_stack() as stack:
        sync_told, async_told = await Both(stack.address).events("look", images=[large, str(small)])
        assert stack.vision.inspected == [large.read_bytes()] * 2
        encoded = [(large.read_bytes(), 0), (small.read_bytes(), 0)]
        assert sorted(stack.vision.encoded) == sorted(encoded)
        assert sync_told[-1].text == async_told[-1].text == "look"


@in_thread
def test_missing_file_and_wrong_source_are_named(stack: Stack, client: Client) -> None:
    with pytest.raises(FileNotFoundError):
        client.chat("look", images=["no-such-file.png"])
    with pytest.raises(TypeError, match="int"):
        client.chat("look", images=[7])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", ["sync", "async"])
@bounded
async def test_upload_reports_its_progress(kind: str) -> None:
    told: list[tuple[int, int]] = []
    file = picture(1, "x" * (2 * 2**20 + 5))

    def progress(sent: int, size: int) -> None:
        told.append((sent, size))

    async with gateway_stack() as stack:
        if kind == "async":
            async with AsyncClient(stack.address) as client:
                await client.upload(file, progress=progress)
        else:
            with Client(stack.address) as blocking:
                await asyncio.to_thread(blocking.upload, file, progress=progress)
    assert [sent for sent, _ in told] == [2**20, 2 * 2**20, len(file)]
    assert {size for _, size in told} == {len(file)}
