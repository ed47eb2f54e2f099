"""Frames of films against decord, with which the reference samples: number, rate and every pixel."""

from __future__ import annotations

import io
import random
from fractions import Fraction
from typing import Any

import av
import decord
import numpy as np
import pytest

from vision_service.limits import MediaLimits
from vision_service.media import detect_type
from vision_service.options import VideoOptions
from vision_service.tiling import TilingOptions
from vision_service.video import open_video, sample_indices

LIMITS = MediaLimits()
BT_601_FULL, BT_709 = {"color_range": 2}, {"colorspace": 1}

# Codec, container, what the encoder is told, what the stream says of its colours. `bf` are B-frames, `g` the
# distance of key frames, `open_gop` lets frames before a key frame lean on it.
FILMS: dict[str, tuple[str, str, dict[str, str], dict[str, Any]]] = {
    "h264": ("libx264", "mp4", {}, {}),
    "h264 B-frames": ("libx264", "mp4", {"bf": "3", "g": "9"}, {}),
    "h264 open groups": ("libx264", "mp4", {"x264-params": "open-gop=1:keyint=10:bframes=3"}, {}),
    "h264 one key frame": ("libx264", "mov", {"g": "999"}, {}),
    "h264 key frames only": ("libx264", "mov", {"g": "1"}, {}),
    "h264 fragments": ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov", "g": "10"}, {}),
    "h264 BT.709": ("libx264", "mp4", {}, BT_709),
    "h264 full range": ("libx264", "mp4", {}, BT_601_FULL),
    "h264 4:4:4": ("libx264", "mp4", {}, {"pix_fmt": "yuv444p"}),
    "h264 odd size": ("libx264", "mp4", {}, {"pix_fmt": "yuv444p", "width": 83, "height": 61}),
    "h264 even size": ("libx264", "mp4", {}, {"width": 86, "height": 58}),
    "hevc": ("libx265", "mp4", {"x265-params": "log-level=none:keyint=10"}, {}),
    "mpeg4": ("mpeg4", "mp4", {}, {}),
    "mpeg4 B-frames": ("mpeg4", "mp4", {"bf": "2", "g": "8"}, {}),
    "vp8": ("libvpx", "webm", {"g": "10"}, {}),
    "vp8 hidden frames": ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16"}, {}),
    "vp9": ("libvpx-vp9", "webm", {"g": "10"}, {}),
}


def drawn(
    codec: str,
    container: str,
    options: dict[str, str],
    properties: dict[str, Any],
    *,
    times: list[int] | None = None,
    rotation: int = 0,
) -> bytes:
    """A film of moving gradients; `times` are those of its frames in hundredths of a second."""
    file = io.BytesIO()
    muxer = {key: options[key] for key in options.keys() & {"movflags"}}
    with av.open(file, "w", format=container, options=muxer) as output:
        coder = {key: value for key, value in options.items() if key not in muxer}
        stream = output.add_stream(codec, rate=Fraction(10), options=coder)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for name, value in properties.items():
            setattr(stream if hasattr(stream, name) else stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        rows, columns = np.mgrid[0 : stream.height, 0 : stream.width]
        for number in range(len(times) if times else 40):
            ramps = (columns * 2 + number * 7, rows * 3 + number * 5, rows + columns + number * 11)
            frame = av.VideoFrame.from_ndarray(np.stack(ramps, axis=-1).astype(np.uint8), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def decord_reader(data: bytes) -> Any:
    return decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)


def assert_as_decord(data: bytes) -> None:
    """decord reads from the first frame to the last, we also jump.

    When decord jumps to a key frame that earlier frames follow in the file (open groups, B-frames of MPEG-4),
    it returns frames up to four too late; read in order it never does.
    """
    reference = decord_reader(data)
    # Of turned films decord returns a fourth channel; the reference drops it (convert("RGB")).
    expected = [reference[number].asnumpy()[..., :3] for number in range(len(reference))]
    count = len(expected)
    draw = random.Random(count)
    samples = [range(count), [count - 1], *(sorted(draw.choices(range(count), k=3)) for _ in range(8))]
    for numbers in samples:
        with open_video(data, detect_type(data).decoder, LIMITS) as film:
            assert (film.frame_count, film.fps) == (count, reference.get_avg_fps())
            assert [n for n in numbers if not np.array_equal(film.read(n), expected[n])] == []


@pytest.mark.parametrize("name", FILMS)
def test_every_frame_is_bit_equal(name: str) -> None:
    assert_as_decord(drawn(*FILMS[name]))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_turned_films_stand_upright(rotation: int) -> None:
    assert_as_decord(drawn(*FILMS["h264"], rotation=rotation))


@pytest.mark.parametrize("name", ["h264 B-frames", "mpeg4", "vp9"])
def test_variable_frame_rates(name: str) -> None:
    draw = random.Random(1)
    times = sorted(draw.sample(range(800), 40))
    assert_as_decord(drawn(*FILMS[name], times=[time - times[0] for time in times]))


@pytest.mark.parametrize("name", ["h264", "vp9"])
def test_films_that_begin_late(name: str) -> None:
    assert_as_decord(drawn(*FILMS[name], times=[300 + 10 * number for number in range(40)]))


def test_sampled_frames_are_those_of_the_reference() -> None:
    """`load_video` of the reference: its indices, read with decord in the order it asks for them."""
    data = drawn(*FILMS["h264 B-frames"])
    for frames, start_s, end_s in ((8, None, None), (32, None, None), (5, 0.7, 2.9), (64, 1.0, 2.0)):
        options = VideoOptions(TilingOptions(1, 1, True, 28), frames, start_s, end_s)
        reference = decord_reader(data)
        with open_video(data, detect_type(data).decoder, LIMITS) as film:
            indices = sample_indices(options, film.fps, film.frame_count)
            for index, image in zip(indices, film.sample(options), strict=True):
                assert np.array_equal(np.asarray(image), reference[index].asnumpy())
