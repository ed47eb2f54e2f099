"""What a turn would cost, exactly, without encoding or generating anything."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.concurrency import together
from gateway.content import Layout, Media
from gateway.llm_backend import TokenCount
from gateway.prompt import Prompt, Visual
from gateway.tier_calls import CallTerms
from gateway.turn import Tiers
from internvl.v1 import llm_service_pb2


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a turn.

    Attributes:
        layouts: one for each picture and film, in order.
        tokens: tokens of the whole prompt, and of its visuals.
    """

    layouts: tuple[Layout, ...]
    tokens: TokenCount

    @property
    def fits(self) -> bool:
        """Whether the prompt leaves room for at least one token of answer."""
        return self.tokens.prompt_tokens < self.tokens.context_limit


async def plan_turn(
    prompt: Prompt, options: llm_service_pb2.PromptOptions, tiers: Tiers, terms: CallTerms
) -> Plan:
    """Plan a turn.

    Raises:
        ServingError: whatever either tier answers, with the fields of the public request.
    """
    layouts = await _lay_out(prompt.visuals, tiers, terms)
    with prompt.naming_errors():
        count = await tiers.llm.count_tokens(prompt, layouts, options, terms)
    return Plan(tuple(layouts[visual.media] for visual in prompt.visuals), count)


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
    planned = await together(_plan(visual, tiers, terms) for visual in unknown.values())
    return layouts | dict(zip(unknown, planned, strict=True))


async def _plan(visual: Visual, tiers: Tiers, terms: CallTerms) -> Layout:
    with visual.naming_errors(), await tiers.media.open(visual.media.media_id) as file:
        return await tiers.vision.plan(file, visual.media, terms)
