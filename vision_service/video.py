"""Sampling frames of a film."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from internvl.errors import BadMedia, InvalidField
from vision_service.film_reader import FilmReader, open_film
from vision_service.image import FileBytes
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
    _reader: FilmReader

    def read(self, number: int) -> NDArray[np.uint8]:
        """Frame `number`, upright: [height, width, 3], RGB. Read frames in ascending order.

        Raises:
            BadMedia: it cannot be decoded.
        """
        return self._reader.read(number)

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
            yield Image.fromarray(self.read(index))


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


@contextmanager
def open_video(data: FileBytes, demuxer: str, limits: MediaLimits) -> Iterator[Video]:
    """Open a film, check its limits and decode its first frame.

    Raises:
        BadMedia: no video in it, damaged, of an unknown codec, or over a limit.
    """
    with open_film(data, demuxer, limits) as reader:
        fps = reader.fps
        if fps is None:
            raise BadMedia("chunk", "the film does not say how fast it runs")
        _check_duration(reader.frame_count / fps, limits)
        yield Video(reader.width, reader.height, reader.frame_count, fps, reader)


def _check_duration(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.max_video_seconds:
        raise BadMedia(
            "chunk",
            f"the film runs {seconds:.0f} s; at most {limits.max_video_seconds:g} s are taken",
            metadata={"seconds": round(seconds), "limit": limits.max_video_seconds},
        )
