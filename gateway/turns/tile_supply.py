"""Where the tiles of one turn come from: few of its items are being encoded at a time, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from gateway.concurrency import Emit, together
from gateway.content import Layout, Media
from gateway.prompt import Visual
from gateway.tiers.layouts import StaleLayout
from gateway.tiers.llm_backend import Need
from gateway.tiers.tier_calls import CallTerms
from gateway.tiers.tile_source import TileSource, open_source
from gateway.turns.tiers import AT_ONCE, Tiers
from internvl.errors import InternalError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Supply:
    """Where the tiles of one item come from that the language tier asked for."""

    source: TileSource
    first_tile: int


class TileSupply:
    """The items of one attempt at a turn, from unknown layouts to sources of their tiles."""

    def __init__(
        self, visuals: Sequence[Visual], tiers: Tiers, terms: CallTerms, stack: AsyncExitStack
    ) -> None:
        """`stack` ends all that is begun here."""
        self._visuals = visuals
        self._tiers = tiers
        self._terms = terms
        self._stack = stack
        self._layouts: dict[Media, Layout] = {}
        self._sources: dict[Media, TileSource] = {}
        self._begun: list[Supply] = []
        self._later: Sequence[Need] = ()

    async def lay_out(self) -> dict[Media, Layout]:
        """Find every layout: remembered ones at once, the others by starting to encode.

        Of many items the first go on being encoded. The others are let go once their layout is known: their
        turn comes later, and the tier has places for so many only.
        """
        unknown: dict[Media, Visual] = {}
        for visual in self._visuals:
            layout = self._tiers.layouts.get(visual.media)
            if layout is not None:
                self._layouts[visual.media] = layout
            else:
                unknown.setdefault(visual.media, visual)
        first, others = _first_of(list(unknown.values()))
        for source in await together(self._begin(visual, 0) for visual in first):
            self._sources[source.visual.media] = source
            self._learn(source.visual, source.layout)
        layouts = await together((self._look(visual) for visual in others), most=AT_ONCE - len(first))
        for visual, layout in zip(others, layouts, strict=True):
            self._learn(visual, layout)
        return self._layouts

    async def meet(self, needed: Sequence[Need]) -> None:
        """Begin with what is needed; work on anything else stops.

        Raises:
            StaleLayout: the vision tier gives other embeddings than it did before.
        """
        known = {layout.visual_id for layout in self._layouts.values()}
        if any(need.visual_id not in known for need in needed):
            raise InternalError("the language service asked for embeddings that are not part of the prompt")
        wanted = {need.visual_id for need in needed}
        for source in self._sources.values():
            if source.layout.visual_id not in wanted:
                source.cancel()
        first, self._later = _first_of(needed)
        self._begun = await together(self._meet(need) for need in first)

    async def supply(self, emit: Emit[Supply]) -> None:
        """Emit all that is needed, in the order in which it was asked for, each item once it has begun."""
        for begun in self._begun:
            await emit(begun)
        for need in self._later:
            await emit(await self._meet(need))

    async def _meet(self, need: Need) -> Supply:
        visual = next(each for each in self._visuals if self._layouts[each.media].visual_id == need.visual_id)
        source = self._sources.get(visual.media) or await self._begin(visual, need.first_tile)
        if source.layout.visual_id != need.visual_id:
            raise StaleLayout
        return Supply(source, need.first_tile)

    async def _begin(self, visual: Visual, first_tile: int) -> TileSource:
        return await self._stack.enter_async_context(self._source(visual, first_tile))

    async def _look(self, visual: Visual) -> Layout:
        async with self._source(visual, 0) as source:
            return source.layout

    def _source(self, visual: Visual, first_tile: int) -> AbstractAsyncContextManager[TileSource]:
        return open_source(visual, first_tile, self._tiers.vision, self._tiers.media, self._terms)

    def _learn(self, visual: Visual, layout: Layout) -> None:
        self._layouts[visual.media] = layout
        self._tiers.layouts.put(visual.media, layout)


def _first_of(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Those to begin with, all if they are few, and the others, which have the rest of the places."""
    count = len(items) if len(items) <= AT_ONCE else AT_ONCE // 2
    return items[:count], items[count:]
