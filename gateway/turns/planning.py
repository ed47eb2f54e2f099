"""What a turn would cost, exactly, without encoding or generating anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.concurrency import together
from gateway.content import Layout, Media
from gateway.prompt import Prompt, Visual
from gateway.tiers.llm_backend import CountOptions, Need, TokenCount
from gateway.tiers.tier_calls import CallTerms
from gateway.turns.tiers import AT_ONCE, Tiers


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a turn.

    Attributes:
        layouts: one for each picture and film, in order.
        tokens: what prompt and answer would take.
        tiles_to_encode: tiles that would have to be encoded, those of equal items once.
        max_tokens: tokens of the answer to make room for.
    """

    layouts: tuple[Layout, ...]
    tokens: TokenCount
    tiles_to_encode: int
    max_tokens: int

    @property
    def tiles(self) -> int:
        """Tiles of all items."""
        return sum(layout.tiles for layout in self.layouts)

    @property
    def fits(self) -> bool:
        """Whether prompt and answer fit the context, and their keys and values the cache."""
        tokens = self.tokens
        in_context = tokens.prompt_tokens + self.max_tokens <= tokens.context_limit
        return in_context and (not tokens.kv_budget_bytes or tokens.kv_bytes <= tokens.kv_budget_bytes)


async def plan_turn(prompt: Prompt, options: CountOptions, tiers: Tiers, terms: CallTerms) -> Plan:
    """Plan a turn.

    Raises:
        ServingError: whatever either tier answers, with the fields of the public request.
    """
    layouts = await _lay_out(prompt.visuals, tiers, terms)
    with prompt.naming_errors():
        count = await tiers.llm.count_tokens(prompt, layouts, options, terms)
    return Plan(
        layouts=tuple(layouts[visual.media] for visual in prompt.visuals),
        tokens=count,
        tiles_to_encode=_tiles_to_encode(layouts.values(), count.needed),
        max_tokens=1 if options.max_tokens is None else options.max_tokens,
    )


def _tiles_to_encode(layouts: Iterable[Layout], needed: Iterable[Need]) -> int:
    """All tiles of items that were never encoded, and those that the language tier has lost of the others."""
    first = {need.visual_id: need.first_tile for need in needed}
    return sum(
        layout.tiles - (first.get(layout.visual_id, layout.tiles) if layout.visual_id else 0)
        for layout in layouts
    )


async def _lay_out(visuals: tuple[Visual, ...], tiers: Tiers, terms: CallTerms) -> dict[Media, Layout]:
    """Remembered layouts, and planned ones for the rest; those name no embeddings and are not remembered."""
    layouts: dict[Media, Layout] = {}
    unknown: dict[Media, Visual] = {}
    for visual in visuals:
        layout = tiers.layouts.get(visual.media)
        if layout is None:
            unknown.setdefault(visual.media, visual)
        else:
            layouts[visual.media] = layout
    planned = await together((_plan(visual, tiers, terms) for visual in unknown.values()), most=AT_ONCE)
    return layouts | dict(zip(unknown, planned, strict=True))


async def _plan(visual: Visual, tiers: Tiers, terms: CallTerms) -> Layout:
    with visual.naming_errors(), await tiers.media.open(visual.media.media_id) as file:
        return await tiers.vision.plan(file, visual.media, terms)
