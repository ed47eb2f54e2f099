"""The tiles of one picture or film on their way from the vision tier, a few ahead of whoever takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.concurrency import Emit, Pipe, piped
from gateway.content import Layout
from gateway.media_store import MediaStore
from gateway.prompt import Visual
from gateway.tier_calls import Deadline
from gateway.vision_backend import EncodeStream, VisionBackend
from internvl.errors import InternalError

# Tiles held in the gateway for each item; beyond them gRPC's flow control holds the vision tier back.
READ_AHEAD = 2


class TileSource:
    """One encode stream.

    Attributes:
        visual: what is encoded.
        layout: how it becomes visual tokens.
    """

    def __init__(
        self, visual: Visual, layout: Layout, first_tile: int, stream: EncodeStream, pipe: Pipe[bytes]
    ) -> None:
        self.visual = visual
        self.layout = layout
        self._first_tile = first_tile
        self._stream = stream
        self._pipe = pipe

    async def tiles(self, first_tile: int) -> AsyncIterator[tuple[int, bytes]]:
        """Numbers and serialised frames of the tiles from `first_tile` on.

        Raises:
            ServingError: whatever the vision tier answers, with the fields of the public request.
            InternalError: the stream ended before the last tile.
        """
        number = self._first_tile
        with self.visual.naming_errors():
            async for frame in self._pipe:
                if number >= first_tile:
                    yield number, frame
                number += 1
        if number != self.layout.tiles:
            raise InternalError(f"the vision service ended after {number} of {self.layout.tiles} tiles")

    def cancel(self) -> None:
        """Stop the vision tier's work; the tiles are not needed."""
        self._stream.cancel()


@asynccontextmanager
async def open_source(
    visual: Visual, first_tile: int, vision: VisionBackend, media: MediaStore, deadline: Deadline
) -> AsyncIterator[TileSource]:
    """Start to encode an item from `first_tile` on and wait for its layout.

    Raises:
        ServingError: whatever the vision tier answers, with the fields of the public request.
        NotFound: the media is no longer stored.
    """
    with visual.naming_errors():
        file = await media.open(visual.media.media_id)
    with file:
        async with vision.encode(file, visual.media.options, first_tile, deadline) as stream:
            with visual.naming_errors():
                layout = await stream.layout()

            async def read(emit: Emit[bytes]) -> None:
                async for frame in stream.tiles():
                    await emit(frame)

            async with piped(read, READ_AHEAD) as (pipe, _):
                yield TileSource(visual, layout, first_tile, stream, pipe)
