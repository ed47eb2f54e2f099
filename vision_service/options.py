"""What a request wants done with its picture or film, every default filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from vision_service.tiling import TileGrid, TilingOptions, plan_image, plan_up_to


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


class Way(NamedTuple):
    """A way to make an item: of so many tiles in all, by these bounds."""

    tiles: int
    frames: int
    max_tiles: int

    def apply(self, options: MediaOptions) -> MediaOptions:
        """The options that make an item this way, all else as in `options`."""
        tiling = options.tiling
        tiling = replace(tiling, max_tiles=self.max_tiles, min_tiles=min(tiling.min_tiles, self.max_tiles))
        if isinstance(options, VideoOptions):
            return replace(options, tiling=tiling, frames=self.frames)
        return replace(options, tiling=tiling)


def smaller_ways(width: int, height: int, options: MediaOptions) -> list[Way]:
    """All ways to make an item of at most as many tiles as asked for, fewest first, the last as asked.

    A film is first given its frames, one tile each, then more tiles a frame. Of several bounds that make
    as many tiles the ones closest to those asked for count.
    """
    frames = options.frames if isinstance(options, VideoOptions) else 1
    ways = [Way(some, some, 1) for some in range(1, frames)]
    for most, grid in enumerate(plan_up_to(width, height, options.tiling), start=1):
        ways.append(Way(grid.tiles * frames, frames, most))
    return sorted({way.tiles: way for way in ways}.values())


def count_tiles(grids: tuple[TileGrid, ...]) -> int:
    """Tiles in all grids, thumbnails included."""
    return sum(grid.tiles for grid in grids)
