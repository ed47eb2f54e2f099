"""The tiles of one picture or film on their way from the vision tier, a few ahead of whoever takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.concurrency import Emit, Pipe, piped
from gateway.content import Layout
from gateway.prompt import Visual
from gateway.storage.media_store import MediaStore
from gateway.tiers.layouts import StaleLayout
from gateway.tiers.replica import ReplicaLost
from gateway.tiers.tier_calls import CallTerms
from gateway.tiers.vision_backend import EncodeStream, VisionBackend
from internvl.errors import InternalError

# Tiles held in the gateway for each item; beyond them gRPC's flow control holds the vision tier back.
READ_AHEAD = 2


class TileSource:
    """One item being encoded.

    Attributes:
        visual: what is encoded.
        layout: how it becomes visual tokens.
    """

    def __init__(
        self, visual: Visual, layout: Layout, first_tile: int, encoding: Encoding, pipe: Pipe[bytes]
    ) -> None:
        self.visual = visual
        self.layout = layout
        self._first_tile = first_tile
        self._encoding = encoding
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
        self._encoding.cancel()


class Encoding:
    """The call that encodes one item; when its replica is lost, one that goes on elsewhere.

    Attributes:
        next_tile: number of the first tile that has not come.
    """

    def __init__(
        self, visual: Visual, first_tile: int, vision: VisionBackend, media: MediaStore, terms: CallTerms
    ) -> None:
        self.next_tile = first_tile
        self._visual = visual
        self._vision = vision
        self._media = media
        self._terms = terms
        self._layout: Layout | None = None
        self._stream: EncodeStream | None = None
        self._call = AsyncExitStack()

    async def open(self) -> Layout:
        """Begin, and wait for the layout.

        Raises:
            StaleLayout: going on elsewhere gives other embeddings.
        """
        while True:
            try:
                layout = await self._begin()
            except ReplicaLost as lost:
                await self._terms.attempts.again(lost)
                continue
            if self._layout is not None and layout.visual_id != self._layout.visual_id:
                raise StaleLayout
            self._layout = layout
            return layout

    async def read(self, emit: Emit[bytes]) -> None:
        """Emit the frames of all tiles, in order, each once."""
        while self._stream is not None:
            try:
                async for frame in self._stream.tiles():
                    self.next_tile += 1
                    await emit(frame)
                return
            except ReplicaLost as lost:
                await self._terms.attempts.again(lost)
            await self.open()

    def cancel(self) -> None:
        """Stop it."""
        if self._stream is not None:
            self._stream.cancel()

    async def close(self) -> None:
        """Stop it, and give back what it held."""
        await self._call.aclose()

    async def _begin(self) -> Layout:
        await self.close()
        media = self._visual.media
        file = self._call.enter_context(await self._media.open(media.media_id))
        encode = self._vision.encode(file, media, self.next_tile, self._terms)
        self._stream = await self._call.enter_async_context(encode)
        return await self._stream.layout()


@asynccontextmanager
async def open_source(
    visual: Visual, first_tile: int, vision: VisionBackend, media: MediaStore, terms: CallTerms
) -> AsyncIterator[TileSource]:
    """Start to encode an item from `first_tile` on and wait for its layout.

    Raises:
        ServingError: whatever the vision tier answers, with the fields of the public request.
        NotFound: the media is no longer stored.
    """
    encoding = Encoding(visual, first_tile, vision, media, terms)
    try:
        with visual.naming_errors():
            layout = await encoding.open()
        async with piped(encoding.read, READ_AHEAD) as (pipe, _):
            yield TileSource(visual, layout, first_tile, encoding, pipe)
    finally:
        await encoding.close()
