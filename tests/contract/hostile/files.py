"""What a hostile file is, and what may be said of it."""

from __future__ import annotations

from dataclasses import dataclass

# What may be said of a file; the rest of the message is its own.
DAMAGED = "the picture is damaged or cut short"
UNKNOWN = "unknown format; JPEG, PNG"
TOO_LARGE = "pixels; at most"
TOO_LONG = "pixels; one side may be at most"
BAD_FILM = "the film is damaged"
TOO_MUCH = "too much memory to decode; at most 256 MiB are given"
LEGAL = ""
"""It is odd, and decodes."""


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file and what becomes of it.

    Attributes:
        refusals: parts of the messages it may be refused with; LEGAL among them if it may be accepted.
        is_film: what it is sent as.
    """

    data: bytes
    refusals: tuple[str, ...]
    is_film: bool = False
