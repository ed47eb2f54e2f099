"""Frames of a film by number, read with PyAV."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.errors import BadMedia
from vision_service.image import FileBytes, check_size
from vision_service.limits import MediaLimits

# What cameras, phones and browsers write. FFmpeg knows hundreds more, each with its own ways to fail.
CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1")

UNREADABLE = "the film is damaged, cut short or of an unknown codec"
_BAD_FRAME = "the film is damaged: a frame cannot be decoded"


class FilmReader:
    """One film, opened. Frames are numbered from 0 as they are shown; read them in ascending order.

    The numbers mean what decord's mean: one for each packet of the best video stream, sorted by time. A frame
    is the one shown at the time of its packet, or the next one shown if that packet shows none.

    Attributes:
        width, height: of a frame, in pixels, upright.
    """

    def __init__(self, container: Any, limits: MediaLimits) -> None:
        """
        Raises:
            BadMedia: no video of a known codec in it, too large, too many frames, or damaged.
        """
        self._limits = limits
        self._container = container
        self._stream = _open_stream(container, limits)
        self._stored_size = (self._stream.codec_context.width, self._stream.codec_context.height)
        self._index = _index_packets(container, self._stream, limits)
        self._frame: Any = None
        self._seek(self._index.start)
        if self._frame is None:
            raise BadMedia("chunk", UNREADABLE)
        pixels = self._pixels(self._frame)
        self.width: int = pixels.shape[1]
        self.height: int = pixels.shape[0]

    @property
    def frame_count(self) -> int:
        """Frames in all, at least 1."""
        return len(self._index.times)

    @property
    def fps(self) -> float | None:
        """Average frames a second, above 0; None if neither the header nor the timestamps tell."""
        rate = self._stream.average_rate
        if rate:
            return float(rate)
        span = self._index.span * (self._stream.time_base or Fraction(0))
        return (self.frame_count - 1) / float(span) if span > 0 else None

    def read(self, number: int) -> NDArray[np.uint8]:
        """One frame, upright: [height, width, 3], RGB.

        Raises:
            BadMedia: it cannot be decoded.
        """
        if self._index.is_by_time:
            self._go_to_time(number)
        else:
            self._count_to(number)
        return self._pixels(self._frame)

    def _go_to_time(self, number: int) -> None:
        wanted = self._index.times[number]
        key_frame = self._index.key_frame_before(wanted)
        if self._frame.pts < key_frame:
            # Everything between here and that key frame would be decoded for nothing.
            self._seek(key_frame)
            if self._frame.pts > wanted:  # a demuxer that jumped too far
                self._seek(self._index.start)
        while self._frame.pts < wanted and (frame := self._next_frame()):
            self._frame = frame

    def _count_to(self, number: int) -> None:
        while self._position < number and (frame := self._next_frame()):
            self._frame = frame

    def _seek(self, time: int) -> None:
        """Go to the first frame of the key frame at or before `time`, or stay if that shows none."""
        try:
            self._container.seek(time, stream=self._stream)
        except MemoryError:
            raise
        except Exception:
            raise BadMedia("chunk", UNREADABLE) from None
        self._frames, self._position = self._decode(), -1
        self._frame = self._next_frame() or self._frame

    def _decode(self) -> Iterator[Any]:
        for frame in self._container.decode(self._stream):
            # A stream may change its size on the way.
            check_size(frame.width, frame.height, self._limits, "chunk")
            if frame.pts is not None or not self._index.is_by_time:
                yield frame

    def _next_frame(self) -> Any | None:
        self._position += 1
        try:
            return next(self._frames, None)
        except (BadMedia, MemoryError):
            raise
        except Exception:  # av's texts name files and functions
            raise BadMedia("chunk", _BAD_FRAME) from None

    def _pixels(self, frame: Any) -> NDArray[np.uint8]:
        """RGB as decord gives it: bicubic chroma, the colour matrix the film names, turned upright."""
        try:
            rgb = frame.reformat(*self._stored_size, "rgb24", interpolation="BICUBIC").to_ndarray()
        except MemoryError:
            raise
        except Exception:
            raise BadMedia("chunk", _BAD_FRAME) from None
        quarter_turns = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
        return np.ascontiguousarray(np.rot90(rgb, quarter_turns))


@contextmanager
def open_film(data: FileBytes, demuxer: str, limits: MediaLimits) -> Iterator[FilmReader]:
    """Open a film and decode its first frame.

    Args:
        data: the file.
        demuxer: the only FFmpeg demuxer that may open it.

    Raises:
        BadMedia: no video of a known codec in it, too large, too many frames, or damaged.
    """
    import av  # here, because only decoder processes should hold FFmpeg

    try:
        container = av.open(BytesIO(data), format=demuxer)
    except MemoryError:
        raise
    except Exception:
        raise BadMedia("chunk", UNREADABLE) from None
    with container:
        yield FilmReader(container, limits)


@dataclass(frozen=True, slots=True)
class _PacketIndex:
    """What the packets of a stream say of their frames.

    Attributes:
        times: when each frame is shown, ascending, in units of the stream.
        key_frames: when those are shown at which decoding can begin, ascending.
        is_by_time: whether every packet has a time of its own; if not, frames are counted.
    """

    times: list[int]
    key_frames: list[int]
    is_by_time: bool

    @property
    def start(self) -> int:
        """Where to seek for the first frame: before it, for others may claim the same time."""
        return (self.key_frames[0] if self.key_frames else 0) - 1

    @property
    def span(self) -> int:
        """Time from the first to the last frame."""
        return self.times[-1] - self.times[0] if self.is_by_time else 0

    def key_frame_before(self, time: int) -> int:
        """The last key frame shown at `time` or before; the first one if there is none."""
        return self.key_frames[max(0, bisect_right(self.key_frames, time) - 1)]


def _open_stream(container: Any, limits: MediaLimits) -> Any:
    """The best video stream, checked by its header and set to decode on one thread."""
    stream = container.streams.best("video")
    codec = stream.codec_context if stream else None
    if codec is None or codec.codec.canonical_name not in CODECS:
        raise BadMedia("chunk", UNREADABLE)
    check_size(codec.width, codec.height, limits, "chunk")
    codec.thread_count = 1
    codec.options = {"max_pixels": str(limits.max_pixels)}
    return stream


def _index_packets(container: Any, stream: Any, limits: MediaLimits) -> _PacketIndex:
    times: list[int | None] = []
    key_frames: list[int] = []
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            times.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                key_frames.append(packet.pts)
            _check_frame_count(len(times), limits)
    except (BadMedia, MemoryError):
        raise
    except Exception:
        raise BadMedia("chunk", UNREADABLE) from None
    if not times:
        raise BadMedia("chunk", UNREADABLE)
    known = sorted(time for time in times if time is not None)
    is_by_time = bool(key_frames) and len(set(known)) == len(times)
    return _PacketIndex(
        times=known if is_by_time else [0] * len(times),
        key_frames=sorted(key_frames),
        is_by_time=is_by_time,
    )


def _check_frame_count(count: int, limits: MediaLimits) -> None:
    if count > limits.max_video_frames:
        raise BadMedia(
            "chunk",
            f"the film has more than {limits.max_video_frames} frames, the most that are taken",
            metadata={"limit": limits.max_video_frames},
        )
