"""Sampling frames of a film with decord."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from internvl.errors import BadMedia, InvalidField
from vision_service.image import FileBytes, check_size
from vision_service.limits import MediaLimits
from vision_service.options import VideoOptions

# Beyond any film: how the reference writes "no bound" (InternVL-doc quick_start.md, get_index).
_UNBOUNDED_S = 100_000.0


@dataclass(frozen=True, slots=True)
class Video:
    """An opened film within the limits.

    Attributes:
        width, height: of a frame, in pixels.
        frame_count: frames in all.
        fps: average frames a second.
    """

    width: int
    height: int
    frame_count: int
    fps: float
    _reader: Any

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frame_count / self.fps

    def sample(self, options: VideoOptions) -> Iterator[Image.Image]:
        """Decode the frames that the options ask for, RGB, in order of time.

        Raises:
            InvalidField: sampling starts after the film's end.
            BadMedia: a frame cannot be decoded.
        """
        if options.start_s is not None and options.start_s >= self.duration_s:
            problem = f"must be before the film's end at {self.duration_s:.3f} s, got {options.start_s:g}"
            raise InvalidField("open.video.start_s", problem)
        for index in sample_indices(options, self.fps, self.frame_count):
            yield Image.fromarray(_read_frame(self._reader, index))


def sample_indices(options: VideoOptions, fps: float, frame_count: int) -> list[int]:
    """Frames to take: the middle of each of `options.frames` equal segments.

    The formula is that of InternVL-doc quick_start.md, get_index; `round` is half-to-even, as numpy's.
    """
    start_s = -_UNBOUNDED_S if options.start_s is None else options.start_s
    end_s = _UNBOUNDED_S if options.end_s is None else options.end_s
    start = max(0, round(start_s * fps))
    end = min(round(end_s * fps), frame_count - 1)
    # A bound within the last half frame rounds to one past the end.
    start = min(start, end)
    segment = (end - start) / options.frames
    return [int(start + segment / 2 + round(segment * number)) for number in range(options.frames)]


def open_video(data: FileBytes, limits: MediaLimits) -> Video:
    """Open a film, check its limits and decode its first frame.

    Raises:
        BadMedia: no video in it, damaged, of an unknown codec, or over a limit.
    """
    reader = _open_reader(data)
    frame_count, fps = len(reader), float(reader.get_avg_fps())
    if not math.isfinite(fps) or fps <= 0:
        raise BadMedia("chunk", "the film does not say how fast it runs")
    _check_length(frame_count, fps, limits)
    height, width, _ = _read_frame(reader, 0).shape
    check_size(width, height, limits, "chunk")
    return Video(width, height, frame_count, fps, reader)


def _open_reader(data: FileBytes) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(BytesIO(data), ctx=decord.cpu(0), num_threads=1)
    except Exception:  # decord's texts hold addresses and stack traces
        raise BadMedia("chunk", "the film is damaged, cut short or of an unknown codec") from None


def _read_frame(reader: Any, index: int) -> Any:
    try:
        return reader[index].asnumpy()
    except Exception:
        raise BadMedia("chunk", "the film is damaged: a frame cannot be decoded") from None


def _check_length(frame_count: int, fps: float, limits: MediaLimits) -> None:
    if frame_count > limits.max_video_frames:
        raise BadMedia(
            "chunk",
            f"the film has {frame_count} frames; at most {limits.max_video_frames} are taken",
            metadata={"frames": frame_count, "limit": limits.max_video_frames},
        )
    seconds = frame_count / fps
    if seconds > limits.max_video_seconds:
        raise BadMedia(
            "chunk",
            f"the film runs {seconds:.0f} s; at most {limits.max_video_seconds:g} s are taken",
            metadata={"seconds": round(seconds), "limit": limits.max_video_seconds},
        )
