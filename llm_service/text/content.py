"""What a conversation consists of, once the wire format is left behind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text. It never turns into control tokens, whatever it holds."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture, known by its embeddings.

    Attributes:
        visual_id: names the embeddings; may be empty where only the length of a prompt matters.
        tiles: tiles of the picture, thumbnail included.
    """

    visual_id: str
    tiles: int


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A film, sampled into frames.

    Attributes:
        visual_id: names the embeddings of all frames; may be empty as for a picture.
        frames: tiles of each frame, in the order of time.
    """

    visual_id: str
    frames: tuple[int, ...]


Part: TypeAlias = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. `role` is a plain string so that an unknown one reaches the check that names its field."""

    role: str
    parts: tuple[Part, ...]
