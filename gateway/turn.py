"""One chat turn: pictures to the vision tier, their tiles to the language tier, its words to the client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway import metrics
from gateway.backends import Deadline, GenerateStream, LlmBackend, VisionBackend
from gateway.concurrency import Emit, task_group, together
from gateway.content import Layout, Media
from gateway.layouts import LayoutMemory
from gateway.media_store import MediaStore
from gateway.prompt import Prompt, Visual
from gateway.tile_source import TileSource, open_source
from internvl.errors import InternalError, Unavailable
from internvl.v1 import llm_service_pb2


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
    """What is asked. `sampling` and `options` are the client's own, carried to the language tier unread."""

    request_id: str
    prompt: Prompt
    sampling: llm_service_pb2.SamplingParams
    options: llm_service_pb2.PromptOptions
    deadline: Deadline
    arrived: float


@dataclass(frozen=True, slots=True)
class Started:
    """The language tier took the request."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """One more tile of a new picture is on its way to the language tier."""

    visual_index: int
    tiles_done: int
    tiles_total: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a turn. `result` is the language tier's own, carried to the client."""

    text: str
    result: llm_service_pb2.GenerateResult
    first_text_s: float


Event = Started | Progress | Delta


class StaleLayout(Unavailable):
    """The vision tier gives another `visual_id` than it did before: its model was replaced."""

    def __init__(self, media: Media) -> None:
        super().__init__("the vision service changed its model during the turn; ask again")
        self.media = media


@dataclass(frozen=True, slots=True)
class _Need:
    """Tiles that the language tier asked for."""

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
        except StaleLayout as stale:
            # Nothing was emitted yet: layouts are compared before the turn is announced.
            self._tiers.layouts.forget(stale.media)
        return await self._attempt()

    async def _attempt(self) -> Answer:
        async with AsyncExitStack() as stack:
            layouts, sources = await self._lay_out(stack)
            opening = self._opening(layouts)
            with self._request.prompt.naming_errors():
                generation = await stack.enter_async_context(
                    self._tiers.llm.generate(opening, self._request.deadline)
                )
                admitted = await generation.admitted()
            needs = await self._meet(admitted.needed, layouts, sources, stack)
            await self._emit(self._started(admitted, layouts))
            return await self._exchange(generation, needs)

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

    def _opening(self, layouts: dict[Media, Layout]) -> llm_service_pb2.GenerateOpen:
        return llm_service_pb2.GenerateOpen(
            messages=self._request.prompt.to_proto(layouts),
            sampling=self._request.sampling,
            prompt=self._request.options,
            request_id=self._request.request_id,
        )

    async def _meet(
        self,
        needed: Sequence[llm_service_pb2.VisualNeed],
        layouts: dict[Media, Layout],
        sources: dict[Media, TileSource],
        stack: AsyncExitStack,
    ) -> list[_Need]:
        """A source for everything that is needed, in that order; work on anything else stops."""
        by_id = {layouts[visual.media].visual_id: visual for visual in reversed(self._visuals)}
        unknown = [need.visual_id for need in needed if need.visual_id not in by_id]
        if unknown:
            raise InternalError("the language service asked for embeddings that are not part of the prompt")
        wanted = {by_id[need.visual_id].media for need in needed}
        for media, source in sources.items():
            if media not in wanted:
                source.cancel()

        async def meet(need: llm_service_pb2.VisualNeed) -> _Need:
            visual = by_id[need.visual_id]
            source = sources.get(visual.media)
            if source is None:
                source = await self._open_source(visual, need.first_tile, stack)
            if source.layout.visual_id != need.visual_id:
                raise StaleLayout(visual.media)
            return _Need(source, need.first_tile)

        return await together(meet(need) for need in needed)

    async def _open_source(self, visual: Visual, first_tile: int, stack: AsyncExitStack) -> TileSource:
        tiers = self._tiers
        source = open_source(visual, first_tile, tiers.vision, tiers.media, self._request.deadline)
        return await stack.enter_async_context(source)

    def _started(self, admitted: llm_service_pb2.Admitted, layouts: dict[Media, Layout]) -> Started:
        return Started(
            request_id=self._request.request_id,
            prompt_tokens=admitted.prompt_tokens,
            cached_tokens=admitted.cached_tokens,
            layouts=tuple(layouts[visual.media] for visual in self._visuals),
        )

    async def _exchange(self, generation: GenerateStream, needs: Sequence[_Need]) -> Answer:
        """Tiles in, words out, at the same time."""
        async with task_group() as tasks:
            splicing = tasks.create_task(self._splice(generation, needs))
            with self._request.prompt.naming_errors():
                answer = await self._collect(generation)
            splicing.cancel()
        return answer

    async def _splice(self, generation: GenerateStream, needs: Sequence[_Need]) -> None:
        """Move the needed tiles, in order, as the bytes they are."""
        for need in needs:
            visual, layout = need.source.visual, need.source.layout
            async for number, frame in need.source.tiles(need.first_tile):
                if not await generation.send(frame):
                    return
                metrics.TILES_FORWARDED.inc()
                metrics.TILE_BYTES_FORWARDED.inc(len(frame))
                await self._emit(Progress(visual.index, number + 1, layout.tiles))
        await generation.done_sending()

    async def _collect(self, generation: GenerateStream) -> Answer:
        text = ""
        first_text_s = 0.0
        result: llm_service_pb2.GenerateResult | None = None
        async for response in generation.responses():
            if response.HasField("result"):
                result = response.result
            elif response.HasField("delta"):
                if response.delta.text and not text:
                    first_text_s = time.monotonic() - self._request.arrived
                    metrics.FIRST_TEXT_SECONDS.observe(first_text_s)
                text += response.delta.text
                await self._emit(Delta(response.delta.text, tuple(response.delta.token_ids)))
        if result is None:
            raise InternalError("the language service ended its answer without a result")
        return Answer(text, result, first_text_s)
