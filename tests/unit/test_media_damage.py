"""Damaged files, cut short or with bytes turned over: each is a typed error or a valid decode."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl.errors import BadMedia, InvalidField
from tests.contract.hostile_files import hostile_files
from tests.unit.media_samples import LEAK, encoded, film, picture
from vision_service.decoding import DecodeConfig, MediaDecoder
from vision_service.limits import MediaLimits
from vision_service.media import decode_media
from vision_service.options import ImageOptions, VideoOptions
from vision_service.tiling import TilingOptions

LIMITS = MediaLimits()
TILING = TilingOptions(1, 4, True, 28)
IMAGE, VIDEO = ImageOptions(TILING), VideoOptions(TILING, 3, None, None)

PICTURES = {
    "jpeg": encoded(picture(), "JPEG"),
    "png": encoded(picture()),
    "png palette": encoded(picture().quantize(8)),
    "webp": encoded(picture(), "WEBP"),
    "webp lossless": encoded(picture(), "WEBP", lossless=True),
    "gif": encoded(picture(), "GIF"),
    "bmp": encoded(picture(), "BMP"),
    "tiff": encoded(picture(), "TIFF"),
    "tiff lzw": encoded(picture(), "TIFF", compression="tiff_lzw"),
    "tiff jpeg": encoded(picture(), "TIFF", compression="jpeg"),
}


def assert_fails_alone(data: bytes, options: ImageOptions | VideoOptions) -> None:
    try:
        decode_media(data, options, LIMITS)
    except InvalidField as error:
        assert_harmless(error)


def assert_harmless(error: InvalidField) -> None:
    assert error.field in ("chunk", "open.image", "open.video")
    assert not LEAK.search(error.message), error.message


def turned_over(data: bytes, seed: int, count: int) -> bytes:
    draw = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(count):
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    return bytes(damaged)


@pytest.mark.parametrize("name", PICTURES)
def test_truncated_pictures(name: str) -> None:
    data = PICTURES[name]
    # Every header boundary lies in the first bytes; after that steps are enough.
    for length in (*range(min(128, len(data))), *range(128, len(data), 37), len(data) - 1):
        assert_fails_alone(data[:length], IMAGE)


@pytest.mark.parametrize("name", PICTURES)
def test_most_of_a_picture_is_not_enough(name: str) -> None:
    with pytest.raises(BadMedia):
        decode_media(PICTURES[name][: len(PICTURES[name]) // 2], IMAGE, LIMITS)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_with_bytes_turned_over(name: str) -> None:
    for seed in range(60):
        assert_fails_alone(turned_over(PICTURES[name], seed, 1 + seed % 8), IMAGE)


@asynccontextmanager
async def started(config: DecodeConfig | None = None) -> AsyncIterator[MediaDecoder]:
    decoder = MediaDecoder(config or DecodeConfig(workers=1, timeout_s=20), LIMITS)
    await decoder.start()
    try:
        yield decoder
    finally:
        await decoder.stop()


def test_damaged_films_fail_alone_even_if_their_decoder_dies() -> None:
    """decord crashes on some of these; the decoder process is replaced and the next film decodes."""

    async def scenario() -> int:
        refused = 0
        films = [film(12), film(12, codec="mpeg4"), film(12, codec="libvpx-vp9", container="webm")]
        damaged = [data[: len(data) * part // 8] for data in films for part in range(1, 8)]
        damaged += [turned_over(data, seed, 20) for data in films for seed in range(8)]
        async with started() as decoder:
            for data in damaged:
                try:
                    await decoder.decode(data, VIDEO)
                except InvalidField as error:
                    assert_harmless(error)
                    refused += 1
            media = await decoder.decode(films[0], VIDEO)
            assert len(media.grids) == 3
        return refused

    assert asyncio.run(scenario()) > 10


def test_a_decoder_that_dies_costs_one_file() -> None:
    async def scenario() -> None:
        async with started() as decoder:
            expected = await decoder.decode(PICTURES["png"], IMAGE)
            for pid in decoder.pids:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(BadMedia, match="chunk: the file is damaged: its decoder failed"):
                await decoder.decode(PICTURES["png"], IMAGE)
            again = await decoder.decode(PICTURES["png"], IMAGE)
            assert np.array_equal(again.tiles, expected.tiles)

    asyncio.run(scenario())


def test_a_file_that_hangs_its_decoder_costs_one_file() -> None:
    async def scenario() -> None:
        async with started(DecodeConfig(workers=1, timeout_s=5)) as decoder:
            await decoder.decode(PICTURES["png"], IMAGE)
            for pid in decoder.pids:
                os.kill(pid, signal.SIGSTOP)
            with pytest.raises(BadMedia, match="takes too long to decode; at most 5 s are given"):
                await decoder.decode(PICTURES["png"], IMAGE)
            await decoder.decode(PICTURES["png"], IMAGE)

    asyncio.run(scenario())


def test_a_hang_ends_even_while_the_file_is_being_handed_over() -> None:
    """A file larger than the pipe's buffer blocks its sender for as long as nobody reads."""

    async def scenario() -> None:
        async with started(DecodeConfig(workers=1, timeout_s=5)) as decoder:
            await decoder.decode(PICTURES["png"], IMAGE)
            for pid in decoder.pids:
                os.kill(pid, signal.SIGSTOP)
            with pytest.raises(BadMedia, match="takes too long to decode"):
                await decoder.decode(PICTURES["png"] + bytes(8 * 2**20), IMAGE)
            await decoder.decode(PICTURES["png"], IMAGE)

    asyncio.run(scenario())


# 4000 x 4000 pixels take 61 MiB as Pillow holds them, but lie in small files.
LARGE = Image.new("L", (4000, 4000)).convert("RGB")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_a_file_that_needs_too_much_memory_costs_one_file(file_format: str) -> None:
    data = encoded(LARGE, file_format)

    async def scenario() -> None:
        async with started(DecodeConfig(workers=1, timeout_s=60, memory_bytes=48 * 2**20)) as decoder:
            expected = await decoder.decode(PICTURES["png"], IMAGE)
            with pytest.raises(BadMedia) as refused:
                await decoder.decode(data, IMAGE)
            assert_harmless(refused.value)
            if file_format in (
                "PNG",
                "JPEG",
            ):  # others tell of damage, which is as far as their decoders know
                assert "too much memory to decode; at most 48 MiB are given" in refused.value.message
            again = await decoder.decode(PICTURES["png"], IMAGE)
            assert np.array_equal(again.tiles, expected.tiles)

    asyncio.run(scenario())


def test_a_decoder_gives_back_what_a_large_file_took() -> None:
    async def scenario() -> tuple[int, int, int]:
        large = encoded(LARGE)
        async with started() as decoder:
            (pid,) = decoder.pids
            await decoder.decode(PICTURES["png"], IMAGE)
            before = resident_mib(pid)
            for _ in range(3):
                await decoder.decode(large, IMAGE)
            assert decoder.pids == [pid]
            return before, resident_mib(pid), resident_mib(pid, "VmHWM")

    before, after, peak = asyncio.run(scenario())
    assert peak > before + 55
    assert after < before + 30


def test_a_film_that_cannot_be_rewound_is_refused_by_its_decoder() -> None:
    """Refused, not died of: a traceback of the decoder would tell of libraries and paths."""
    data = hostile_files()["webm of bytes turned over"].data
    with pytest.raises(BadMedia, match="the film is damaged"):
        decode_media(data, VIDEO, LIMITS)


def test_no_film_counts_against_the_next() -> None:
    """Memory is limited for one file; frames that linger would use it up over many."""
    data = film(4, size=(640, 480))

    async def scenario() -> None:
        async with started(DecodeConfig(workers=1, timeout_s=60, memory_bytes=64 * 2**20)) as decoder:
            pids = decoder.pids
            for _ in range(40):
                assert len((await decoder.decode(data, VIDEO)).grids) == 3
            assert decoder.pids == pids

    asyncio.run(scenario())


def resident_mib(pid: int, line: str = "VmRSS") -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) // 1024


def test_a_decoder_sees_none_of_the_services_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_SECRET", "hunter2")

    async def scenario() -> bytes:
        async with started() as decoder:
            await decoder.decode(PICTURES["png"], IMAGE)
            return Path(f"/proc/{decoder.pids[0]}/environ").read_bytes()

    assert b"hunter2" not in asyncio.run(scenario())


def test_a_decoder_leaves_no_core_file_and_has_limits() -> None:
    async def scenario() -> str:
        async with started() as decoder:
            await decoder.decode(PICTURES["png"], IMAGE)
            return Path(f"/proc/{decoder.pids[0]}/limits").read_text()

    limits = {line[:25].strip(): line[25:].split()[0] for line in asyncio.run(scenario()).splitlines()}
    assert limits["Max core file size"] == "0"
    assert 2**31 < int(limits["Max address space"]) < 2**32
    assert 20 <= int(limits["Max cpu time"]) <= 60


def test_a_caller_who_leaves_does_not_disturb_the_next() -> None:
    async def scenario() -> list[int]:
        large = encoded(picture(900, 700), "JPEG")
        async with started() as decoder:
            expected = await decoder.decode(PICTURES["png"], IMAGE)
            leaving = asyncio.ensure_future(decoder.decode(large, IMAGE))
            await asyncio.sleep(0)
            leaving.cancel()
            media = await decoder.decode(PICTURES["png"], IMAGE)
            assert np.array_equal(media.tiles, expected.tiles)
            return decoder.pids

    assert not [pid for pid in asyncio.run(scenario()) if Path(f"/proc/{pid}").exists()]
