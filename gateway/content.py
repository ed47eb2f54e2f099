"""What people say, as plain values. `wire` translates from and to the messages of `content.proto`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from internvl.v1 import content_pb2


class Role(enum.Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How to tile a picture; None means the model's own setting, and so does 0, the contract's number of no
    detail."""

    min_tiles: int | None = None
    max_tiles: int | None = None
    thumbnail: bool | None = None
    detail: content_pb2.Detail.ValueType = content_pb2.DETAIL_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How to sample a film; None means the vision tier's default. Times are in seconds."""

    frames: int | None = None
    tiles_per_frame: int | None = None
    start_s: float | None = None
    end_s: float | None = None


MediaOptions = ImageOptions | VideoOptions


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """A stored picture or film: the hash of its bytes and how to turn it into tiles.

    Equal values name equal embeddings, as long as the encoder stays the same.
    """

    media_id: str
    options: MediaOptions

    @property
    def kind(self) -> str:
        """`image` or `video`: the name of the part in the public request."""
        return "image" if isinstance(self.options, ImageOptions) else "video"


@dataclass(frozen=True, slots=True)
class InlineMedia:
    """A picture or film that came with its bytes. It becomes `Media` as soon as it is stored."""

    data: bytes
    options: MediaOptions


Part = Text | Media


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message as it arrived: some of its media may still hold bytes."""

    role: Role
    parts: tuple[Part | InlineMedia, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a media item becomes visual tokens.

    Attributes:
        visual_id: names the embeddings exactly; empty in a plan.
        tiles: tiles of all grids.
        encoded: the `VisualLayout` message as the vision tier sent it. The gateway forwards it as it is, so
            fields that it does not know reach the language tier and the client.
    """

    visual_id: str
    tiles: int
    encoded: bytes
