"""What a file may be at most. Checked before the work that a larger one would cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Limits of one picture or film.

    Attributes:
        max_pixels: width times height of a picture or frame.
        max_aspect_ratio: longer side over shorter side.
        max_video_frames: frames of a film, sampled or not.
        max_video_seconds: length of a film.
        max_tiles: tiles that one picture or film may make, thumbnails included.
    """

    max_pixels: int = 64_000_000
    max_aspect_ratio: float = 200.0
    max_video_frames: int = 200_000
    max_video_seconds: float = 7200.0
    max_tiles: int = 256


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of one request and of all that are open.

    Attributes:
        max_media_bytes: length of a file.
        max_grid_tiles: largest `max_tiles` or `tiles_per_frame` a request may ask for.
        max_frames: most frames a request may sample.
        max_plan_items: most items of one `Plan`.
        max_open_requests: `Encode` and `Inspect` calls at once; one more is told to come back.
        upload_timeout_s: time for a whole file to arrive.
        reader_timeout_s: time for a client to take one message of an answer.
    """

    max_media_bytes: int = 64 * 2**20
    max_grid_tiles: int = 40
    max_frames: int = 128
    max_plan_items: int = 1000
    max_open_requests: int = 32
    upload_timeout_s: float = 60.0
    reader_timeout_s: float = 30.0
