"""What a request wants done with its picture or film, every default filled in."""

from __future__ import annotations

from dataclasses import dataclass

from vision_service.tiling import TileGrid, TilingOptions, plan_image


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How to tile a picture."""

    tiling: TilingOptions


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How to sample a film and tile each frame.

    Attributes:
        tiling: of each frame.
        frames: frames to sample; a film with fewer gives some of them more than once.
        start_s: where sampling starts, in seconds; None is the beginning.
        end_s: where sampling ends, in seconds; None is the end.
    """

    tiling: TilingOptions
    frames: int
    start_s: float | None
    end_s: float | None


MediaOptions = ImageOptions | VideoOptions


def plan_media(width: int, height: int, options: MediaOptions) -> tuple[TileGrid, ...]:
    """The grids of a picture (one) or film (one for each sampled frame) of this size in pixels."""
    grid = plan_image(width, height, options.tiling)
    return (grid,) * (options.frames if isinstance(options, VideoOptions) else 1)


def count_tiles(grids: tuple[TileGrid, ...]) -> int:
    """Tiles in all grids, thumbnails included."""
    return sum(grid.tiles for grid in grids)
