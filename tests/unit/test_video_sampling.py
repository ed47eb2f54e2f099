"""Which frames of a film are taken, on paper and in real files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import BadMedia, InvalidField
from tests.unit.media_samples import encoded, film, frame_numbers, live_film, picture, timeless_film
from vision_service.limits import MediaLimits
from vision_service.media import decode_media, inspect_media
from vision_service.options import VideoOptions
from vision_service.tiling import TilingOptions
from vision_service.video import sample_indices

LIMITS = MediaLimits()
ONE_TILE = TilingOptions(1, 1, True, 28)


def options(
    frames: int = 8, start_s: float | None = None, end_s: float | None = None, tiles: int = 1
) -> VideoOptions:
    return VideoOptions(TilingOptions(1, tiles, True, 28), frames, start_s, end_s)


def reference_indices(
    bound: tuple[float, float] | None, fps: float, max_frame: int, segments: int
) -> list[int]:
    """`get_index` of the reference, with numpy's own rounding and with arrays."""
    start_s, end_s = bound or (-100000, 100000)
    start = max(0, int(np.round(start_s * fps)))
    end = min(int(np.round(end_s * fps)), max_frame)
    width = float(end - start) / segments
    return [int(index) for index in (start + width / 2 + np.round(width * np.arange(segments))).astype(int)]


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 5000), st.floats(0.5, 240), st.integers(1, 128))
def test_unbounded_indices_equal_the_reference(frame_count: int, fps: float, frames: int) -> None:
    indices = sample_indices(options(frames), fps, frame_count)
    assert indices == reference_indices(None, fps, frame_count - 1, frames)
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < frame_count


@settings(max_examples=500, deadline=None)
@given(st.integers(2, 5000), st.floats(0.5, 240), st.integers(1, 64), st.floats(0, 0.99), st.floats(0.001, 3))
def test_bounded_indices_equal_the_reference(
    frame_count: int, fps: float, frames: int, start: float, length: float
) -> None:
    duration = frame_count / fps
    start_s, end_s = start * duration, (start + length) * duration
    indices = sample_indices(options(frames, start_s, end_s), fps, frame_count)
    assert all(0 <= index < frame_count for index in indices)
    if round(start_s * fps) < frame_count:
        assert indices == reference_indices((start_s, end_s), fps, frame_count - 1, frames)


CONTAINERS = [
    ("libx264", "mp4", "video/mp4"),
    ("mpeg4", "mp4", "video/mp4"),
    ("libx264", "mov", "video/quicktime"),
    ("libvpx", "webm", "video/webm"),
    ("libvpx-vp9", "webm", "video/webm"),
    ("libsvtav1", "webm", "video/webm"),
    ("libx265", "mp4", "video/mp4"),
]


@pytest.mark.parametrize(("codec", "container", "media_type"), CONTAINERS)
def test_real_films_give_the_frames_of_the_formula(codec: str, container: str, media_type: str) -> None:
    data = film(40, codec=codec, container=container)
    info = inspect_media(data, LIMITS)
    assert (info.type.name, info.width, info.height, info.frame_count) == (media_type, 64, 48, 40)
    assert info.duration_s == pytest.approx(4.0, abs=0.01)
    for asked, bound in ((8, None), (5, (1.0, 3.0)), (64, None), (1, None), (3, (3.9, 4.0))):
        start_s, end_s = bound or (None, None)
        media = decode_media(data, options(asked, start_s, end_s), LIMITS)
        assert len(media.grids) == asked
        assert frame_numbers(media.tiles) == reference_indices(bound, 10.0, 39, asked)


def test_frames_are_tiled_like_pictures() -> None:
    media = decode_media(film(4, size=(128, 64)), options(2, tiles=6), LIMITS)
    assert [(grid.columns, grid.rows, grid.thumbnail) for grid in media.grids] == [(2, 1, True)] * 2
    assert media.tiles.shape == (6, 28, 28, 3)


def test_a_film_of_one_frame_repeats_it() -> None:
    media = decode_media(film(1), options(3), LIMITS)
    assert frame_numbers(media.tiles) == [0, 0, 0]


def test_sampling_must_start_before_the_end() -> None:
    with pytest.raises(
        InvalidField, match=r"open\.video\.start_s: must be before the film's end at 4\.000 s, got 4"
    ):
        decode_media(film(40), options(4, start_s=4.0), LIMITS)
    assert frame_numbers(decode_media(film(40), options(2, start_s=3.99), LIMITS).tiles) == [39, 39]


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (MediaLimits(max_video_frames=39), "has more than 39 frames, the most that are taken"),
        (MediaLimits(max_video_seconds=3.5), "runs 4 s; at most 3.5 s"),
        (MediaLimits(max_pixels=64 * 48 - 1), "64 x 48 pixels"),
        (MediaLimits(max_tiles=7), r"open\.video: makes 8 tiles; at most 7"),
    ],
)
def test_films_over_a_limit_are_refused(limits: MediaLimits, problem: str) -> None:
    with pytest.raises(BadMedia, match=problem):
        decode_media(film(40), options(8), limits)


@pytest.mark.parametrize(
    ("codec", "container"), [("mjpeg", "mov"), ("prores_ks", "mov"), ("mpeg2video", "mp4")]
)
def test_a_codec_off_the_list_is_refused(codec: str, container: str) -> None:
    with pytest.raises(BadMedia, match="unknown codec") as refused:
        inspect_media(film(5, codec=codec, container=container), LIMITS)
    assert "/" not in refused.value.message


def test_a_film_without_pictures_is_refused() -> None:
    with pytest.raises(BadMedia, match="the film is damaged, cut short or of an unknown codec"):
        inspect_media(film(5)[:60], LIMITS)


@pytest.mark.parametrize("frames", [2, 3, 30])
def test_a_film_that_names_no_duration_is_counted(frames: int) -> None:
    """Browsers record such; decord refuses them."""
    info = inspect_media(live_film(frames), LIMITS)
    assert (info.frame_count, info.duration_s) == (frames, pytest.approx(frames / 10, rel=0.02))
    media = decode_media(live_film(frames), options(4), LIMITS)
    assert frame_numbers(media.tiles) == reference_indices(None, 10.0, frames - 1, 4)


def test_frames_without_a_time_of_their_own_are_counted() -> None:
    media = decode_media(timeless_film(12), options(12), LIMITS)
    assert frame_numbers(media.tiles) == reference_indices(None, 1.0, 11, 12)


def test_a_film_of_one_frame_and_no_rate_is_refused() -> None:
    with pytest.raises(BadMedia, match="the film does not say how fast it runs"):
        inspect_media(live_film(1), LIMITS)


def test_still_pictures_are_no_films() -> None:
    with pytest.raises(BadMedia, match="expected a film"):
        decode_media(encoded(picture()), options(), LIMITS)
