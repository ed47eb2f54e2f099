"""One chat turn: pictures to the vision tier, their tiles to the language tier, its words to the client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway import metrics
from gateway.answer import Answer, Event, Outcome, Progress, Started
from gateway.concurrency import Emit, task_group, together
from gateway.content import Layout, Media
from gateway.layouts import LayoutMemory
from gateway.llm_backend import Admission, GenerateOptions, GenerateStream, LlmBackend, Need
from gateway.media_store import MediaStore
from gateway.prompt import Prompt, Visual
from gateway.tier_calls import Deadline
from gateway.tile_source import TileSource, open_source
from gateway.vision_backend import VisionBackend
from internvl.errors import InternalError, Unavailable


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a turn works with.

    Attributes:
        vision: the vision tier.
        llm: the language tier.
        media: bytes of all media.
        layouts: layouts of media that was encoded before.
    """

    vision: VisionBackend
    llm: LlmBackend
    media: MediaStore
    layouts: LayoutMemory


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What is asked.

    Attributes:
        prompt: all messages that the model reads.
        options: how to answer.
        deadline: when the client stops waiting.
        arrived: when the request came, on the monotonic clock, in seconds.
    """

    prompt: Prompt
    options: GenerateOptions
    deadline: Deadline
    arrived: float


class StaleLayout(Unavailable):
    """The vision tier gives another `visual_id` than it did before: its model was replaced."""

    def __init__(self) -> None:
        super().__init__("the vision service changed its model during the turn; ask again")


@dataclass(frozen=True, slots=True)
class _Supply:
    """Where the tiles come from that the language tier asked for."""

    source: TileSource
    first_tile: int


class Turn:
    """One turn, from prompt to answer. Cancelling `run` cancels both tiers at once."""

    def __init__(self, request: TurnRequest, tiers: Tiers, emit: Emit[Event]) -> None:
        self._request = request
        self._tiers = tiers
        self._emit = emit
        self._visuals = request.prompt.visuals

    async def run(self) -> Answer:
        """Emit what happens and return the answer.

        Raises:
            ServingError: whatever went wrong on either tier, with the fields of the public request.
        """
        try:
            return await self._attempt()
        except StaleLayout:
            # Nothing was emitted yet: layouts are compared before the turn is announced.
            for visual in self._visuals:
                self._tiers.layouts.forget(visual.media)
        return await self._attempt()

    async def _attempt(self) -> Answer:
        async with AsyncExitStack() as stack:
            layouts, sources = await self._lay_out(stack)
            generation = await self._generate(layouts, stack)
            with self._request.prompt.naming_errors():
                admission = await generation.admitted()
            supplies = await self._meet(admission.needed, layouts, sources, stack)
            await self._emit(self._started(admission, layouts))
            return await self._exchange(generation, supplies)

    async def _lay_out(self, stack: AsyncExitStack) -> tuple[dict[Media, Layout], dict[Media, TileSource]]:
        """Find every layout: remembered ones at once, the others by starting to encode."""
        unknown: dict[Media, Visual] = {}
        layouts: dict[Media, Layout] = {}
        for visual in self._visuals:
            layout = self._tiers.layouts.get(visual.media)
            if layout is not None:
                layouts[visual.media] = layout
            else:
                unknown.setdefault(visual.media, visual)
        sources = await together(self._open_source(visual, 0, stack) for visual in unknown.values())
        for source in sources:
            layouts[source.visual.media] = source.layout
            self._tiers.layouts.put(source.visual.media, source.layout)
        return layouts, {source.visual.media: source for source in sources}

    async def _generate(self, layouts: dict[Media, Layout], stack: AsyncExitStack) -> GenerateStream:
        request = self._request
        generation = self._tiers.llm.generate(request.prompt, layouts, request.options, request.deadline)
        return await stack.enter_async_context(generation)

    async def _meet(
        self,
        needed: Sequence[Need],
        layouts: dict[Media, Layout],
        sources: dict[Media, TileSource],
        stack: AsyncExitStack,
    ) -> list[_Supply]:
        """A source for everything that is needed, in that order; work on anything else stops."""
        by_id = {layouts[visual.media].visual_id: visual for visual in reversed(self._visuals)}
        if any(need.visual_id not in by_id for need in needed):
            raise InternalError("the language service asked for embeddings that are not part of the prompt")
        wanted = {by_id[need.visual_id].media for need in needed}
        for media, source in sources.items():
            if media not in wanted:
                source.cancel()

        async def meet(need: Need) -> _Supply:
            visual = by_id[need.visual_id]
            source = sources.get(visual.media)
            if source is None:
                source = await self._open_source(visual, need.first_tile, stack)
            if source.layout.visual_id != need.visual_id:
                raise StaleLayout
            return _Supply(source, need.first_tile)

        return await together(meet(need) for need in needed)

    async def _open_source(self, visual: Visual, first_tile: int, stack: AsyncExitStack) -> TileSource:
        tiers = self._tiers
        source = open_source(visual, first_tile, tiers.vision, tiers.media, self._request.deadline)
        return await stack.enter_async_context(source)

    def _started(self, admission: Admission, layouts: dict[Media, Layout]) -> Started:
        return Started(
            request_id=self._request.options.request_id,
            prompt_tokens=admission.prompt_tokens,
            cached_tokens=admission.cached_tokens,
            layouts=tuple(layouts[visual.media] for visual in self._visuals),
        )

    async def _exchange(self, generation: GenerateStream, supplies: Sequence[_Supply]) -> Answer:
        """Tiles in, words out, at the same time."""
        async with task_group() as tasks:
            splicing = tasks.create_task(self._splice(generation, supplies))
            with self._request.prompt.naming_errors():
                answer = await self._collect(generation)
            splicing.cancel()
        return answer

    async def _splice(self, generation: GenerateStream, supplies: Sequence[_Supply]) -> None:
        """Move the needed tiles, in order, as the bytes they are."""
        for supply in supplies:
            visual, layout = supply.source.visual, supply.source.layout
            async for number, frame in supply.source.tiles(supply.first_tile):
                if not await generation.send(frame):
                    return
                metrics.TILES_FORWARDED.inc()
                metrics.TILE_BYTES_FORWARDED.inc(len(frame))
                await self._emit(Progress(visual.index, number + 1, layout.tiles))
        await generation.done_sending()

    async def _collect(self, generation: GenerateStream) -> Answer:
        text = ""
        first_text_s = 0.0
        outcome: Outcome | None = None
        async for piece in generation.deltas():
            if isinstance(piece, Outcome):
                outcome = piece
                continue
            if piece.text and not first_text_s:
                first_text_s = time.monotonic() - self._request.arrived
                metrics.FIRST_TEXT_SECONDS.observe(first_text_s)
            if piece.choice == 0:  # the answer that a conversation keeps
                text += piece.text
            await self._emit(piece)
        if outcome is None:
            raise InternalError("the language service ended its answer without a result")
        return Answer(text, outcome, first_text_s)
