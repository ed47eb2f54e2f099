"""Fewer tiles for each new picture and film, so that all of a turn stay within a budget."""

from __future__ import annotations

import re
from dataclasses import replace

from gateway.concurrency import together
from gateway.content import Media
from gateway.prompt import Prompt, Visual
from gateway.tiers.tier_calls import CallTerms
from gateway.turns.tiers import AT_ONCE, Tiers
from internvl.errors import InvalidField
from internvl.v1 import vision_service_pb2

_ITEM = re.compile(r"items\[(\d+)\]\.")


async def within_budget(prompt: Prompt, budget: int, tiers: Tiers, terms: CallTerms) -> Prompt:
    """The prompt with the options of its new items changed so that they make at most `budget` tiles together.

    Raises:
        InvalidField: not even one tile for each of them.
        ServingError: whatever the vision tier answers, with the fields of the public request.
    """
    visuals = [visual for visual in prompt.visuals if visual.field.startswith("messages[")]
    if not visuals:
        return prompt
    infos = await together((_inspect(visual, tiers, terms) for visual in visuals), most=AT_ONCE)
    try:
        reduced = iter(await tiers.vision.reduce([each.media for each in visuals], infos, budget, terms))
    except InvalidField as error:
        match = _ITEM.match(error.field)
        if match is None:
            raise
        with visuals[int(match[1])].naming_errors():
            field = f"items[0].{error.field[match.end() :]}"
            raise type(error)(field, error.problem, metadata=error.metadata) from error
    messages = tuple(
        replace(
            message,
            parts=tuple(next(reduced) if isinstance(part, Media) else part for part in message.parts),
        )
        for message in prompt.messages
    )
    return Prompt(prompt.history, messages)


async def _inspect(visual: Visual, tiers: Tiers, terms: CallTerms) -> vision_service_pb2.InspectResponse:
    with visual.naming_errors(), await tiers.media.open(visual.media.media_id) as file:
        return await tiers.vision.inspect(file, visual.media.media_id, terms)
