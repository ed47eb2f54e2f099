"""What a turn would cost, exactly, without encoding or generating anything."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.backends import Deadline
from gateway.concurrency import together
from gateway.content import ImageOptions, Layout, Media
from gateway.prompt import Prompt, Visual
from gateway.turn import Tiers
from gateway.wire import image_options_to_proto, layout_from_proto, video_options_to_proto
from internvl.errors import InternalError
from internvl.v1 import llm_service_pb2, vision_service_pb2


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a turn.

    Attributes:
        layouts: one for each picture and film, in order.
        visual_tokens: tokens of all of them.
        prompt_tokens: tokens of the whole prompt.
        context_limit: most tokens of prompt and answer together.
    """

    layouts: tuple[Layout, ...]
    visual_tokens: int
    prompt_tokens: int
    context_limit: int

    @property
    def fits(self) -> bool:
        """Whether the prompt leaves room for at least one token of answer."""
        return self.prompt_tokens < self.context_limit


async def plan_turn(
    prompt: Prompt, options: llm_service_pb2.PromptOptions, tiers: Tiers, deadline: Deadline
) -> Plan:
    """Plan a turn.

    Raises:
        ServingError: whatever either tier answers, with the fields of the public request.
    """
    layouts = await _lay_out(prompt.visuals, tiers, deadline)
    request = llm_service_pb2.CountTokensRequest(messages=prompt.to_proto(layouts), prompt=options)
    with prompt.naming_errors():
        count = await tiers.llm.count_tokens(request, deadline)
    return Plan(
        layouts=tuple(layouts[visual.media] for visual in prompt.visuals),
        visual_tokens=count.visual_tokens,
        prompt_tokens=count.prompt_tokens,
        context_limit=count.context_limit,
    )


async def _lay_out(visuals: tuple[Visual, ...], tiers: Tiers, deadline: Deadline) -> dict[Media, Layout]:
    """Remembered layouts, and planned ones for the rest; those name no embeddings and are not remembered."""
    layouts: dict[Media, Layout] = {}
    unknown: dict[Media, Visual] = {}
    for visual in visuals:
        layout = tiers.layouts.get(visual.media)
        if layout is None:
            unknown.setdefault(visual.media, visual)
        else:
            layouts[visual.media] = layout
    planned = await together(_plan(visual, tiers, deadline) for visual in unknown.values())
    return layouts | dict(zip(unknown, planned, strict=True))


async def _plan(visual: Visual, tiers: Tiers, deadline: Deadline) -> Layout:
    with visual.naming_errors():
        with await tiers.media.open(visual.media.media_id) as file:
            info = await tiers.vision.inspect(file, deadline)
        planned = await tiers.vision.plan([_plan_item(visual.media, info)], deadline)
    if len(planned.layouts) != 1:
        raise InternalError("the vision service planned another number of items than it was asked for")
    return layout_from_proto(planned.layouts[0])


def _plan_item(media: Media, info: vision_service_pb2.InspectResponse) -> vision_service_pb2.PlanItem:
    item = vision_service_pb2.PlanItem(width=info.width, height=info.height)
    if isinstance(media.options, ImageOptions):
        item.image.CopyFrom(image_options_to_proto(media.options))
    else:
        item.video.CopyFrom(video_options_to_proto(media.options))
    return item
