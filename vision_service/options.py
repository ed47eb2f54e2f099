"""What a request wants done with its picture or film, every default filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


def smaller_ways(width: int, height: int, options: MediaOptions) -> list[MediaOptions]:
    """All ways to make an item of at most as many tiles as asked for, fewest first, the last as asked.

    A film is first given its frames, one tile each, then more tiles a frame. Of several options that make
    as many tiles the ones closest to those asked for count.
    """
    tilings = [_at_most(most, options.tiling) for most in range(1, options.tiling.max_tiles + 1)]
    ways: list[MediaOptions] = []
    if isinstance(options, VideoOptions):
        ways += [replace(options, tiling=tilings[0], frames=frames) for frames in range(1, options.frames)]
    ways += [replace(options, tiling=tiling) for tiling in tilings]
    by_tiles = {count_tiles(plan_media(width, height, way)): way for way in ways}
    return [by_tiles[tiles] for tiles in sorted(by_tiles)]


def _at_most(tiles: int, tiling: TilingOptions) -> TilingOptions:
    return replace(tiling, max_tiles=tiles, min_tiles=min(tiling.min_tiles, tiles))


def count_tiles(grids: tuple[TileGrid, ...]) -> int:
    """Tiles in all grids, thumbnails included."""
    return sum(grid.tiles for grid in grids)
