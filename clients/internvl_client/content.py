"""What a caller says: texts, pictures and films."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class PilImage(Protocol):
    """A `PIL.Image.Image`, without importing Pillow."""

    def save(self, fp: BinaryIO, format: str) -> None:  # noqa: A002
        """Write the picture in the named file format."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file is.

    Attributes:
        size_bytes: length of the file.
        kind: `image` or `video`.
        media_type: what was found in the content, for example `image/png`.
        width: in pixels, after EXIF orientation.
        height: in pixels, after EXIF orientation.
        frame_count: frames of a film; 1 for a picture.
        duration_s: length of a film in seconds; 0 for a picture.
    """

    size_bytes: int
    kind: Literal["image", "video"]
    media_type: str
    width: int
    height: int
    frame_count: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Media:
    """A file that the server holds.

    Attributes:
        media_id: a hash of the content: the same file always has the same.
        info: what the file is, as `upload` found; None where the server names media by id alone.
    """

    media_id: str
    info: MediaInfo | None = None


MediaSource: TypeAlias = "str | os.PathLike[str] | bytes | Media | PilImage"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture and how to tile it; None means the model's own setting.

    Attributes:
        source: a path, the bytes of a file, a PIL image, or an earlier upload.
        min_tiles: fewest tiles of the grid.
        max_tiles: most tiles of the grid.
        thumbnail: whether a view of the whole picture follows a grid of more than one tile.
    """

    source: MediaSource
    min_tiles: int | None = None
    max_tiles: int | None = None
    thumbnail: bool | None = None


@dataclass(frozen=True, slots=True)
class Video:
    """A film and how to sample it; None means the server's default.

    Attributes:
        source: a path, the bytes of a file, or an earlier upload.
        frames: frames to sample, evenly spaced.
        tiles_per_frame: most tiles of each frame's grid.
        start_s: where sampling starts, in seconds.
        end_s: where sampling ends, in seconds.
    """

    source: MediaSource
    frames: int | None = None
    tiles_per_frame: int | None = None
    start_s: float | None = None
    end_s: float | None = None


Part: TypeAlias = str | Image | Video
Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who speaks.
        parts: what is said, in order. Only users show pictures and films.
    """

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text of the message."""
        return "".join(part for part in self.parts if isinstance(part, str))


def system(text: str) -> Message:
    """Instructions for the whole conversation."""
    return Message("system", (text,))


def user(*parts: Part) -> Message:
    """What a person asks and shows."""
    return Message("user", parts)


def assistant(text: str) -> Message:
    """An earlier answer of the model."""
    return Message("assistant", (text,))


def question(
    text: str, images: Iterable[Image | MediaSource] = (), videos: Iterable[Video | MediaSource] = ()
) -> Message:
    """A user message with its pictures and films before its text."""
    return user(
        *(image if isinstance(image, Image) else Image(image) for image in images),
        *(video if isinstance(video, Video) else Video(video) for video in videos),
        text,
    )


def open_source(source: MediaSource) -> BinaryIO:
    """Open the bytes of a picture or film that is not uploaded yet.

    Raises:
        OSError: the file cannot be opened.
        TypeError: not a path, bytes or a PIL image.
    """
    match source:
        case bytes():
            return io.BytesIO(source)
        case str() | os.PathLike():
            return Path(source).open("rb")
        case PilImage():
            buffer = io.BytesIO()
            source.save(buffer, "PNG")
            buffer.seek(0)
            return buffer
        case _:
            raise TypeError(f"expected a path, bytes, a PIL image or Media, got {type(source).__name__}")


def size_of(file: BinaryIO) -> int:
    """Length of an open file in bytes; it is read from its beginning next."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size
