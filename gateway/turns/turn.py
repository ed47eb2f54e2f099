"""One chat turn: pictures to the vision tier, their tiles to the language tier, its words to the client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from gateway import metrics
from gateway.answer import Answer, Delta, Event, Outcome, Progress, Started
from gateway.concurrency import Emit, task_group, together
from gateway.content import Layout, Media
from gateway.deadline import Deadline
from gateway.prompt import Prompt, Visual
from gateway.storage.media_store import MediaStore
from gateway.tiers.layouts import LayoutMemory, StaleLayout
from gateway.tiers.llm_backend import Admission, GenerateOptions, GenerateStream, LlmBackend, Need
from gateway.tiers.replica import ReplicaLost
from gateway.tiers.retries import RetryBudget
from gateway.tiers.tier_calls import CallTerms
from gateway.tiers.tile_source import TileSource, open_source
from gateway.tiers.vision_backend import VisionBackend
from internvl.errors import InternalError, Unavailable


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a turn works with.

    Attributes:
        vision: the vision tier.
        llm: the language tier.
        media: bytes of all media.
        layouts: layouts of media that was encoded before.
        retries: what may be tried again.
    """

    vision: VisionBackend
    llm: LlmBackend
    media: MediaStore
    layouts: LayoutMemory
    retries: RetryBudget


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


@dataclass(frozen=True, slots=True)
class _Supply:
    """Where the tiles come from that the language tier asked for."""

    source: TileSource
    first_tile: int


class Turn:
    """One turn, from prompt to answer. Cancelling `run` cancels both tiers at once.

    When a vision replica is lost, its missing tiles are encoded elsewhere. When a language replica is, the
    answer goes on elsewhere behind the tokens that were emitted, and nobody who reads it notices.
    """

    def __init__(self, request: TurnRequest, tiers: Tiers, emit: Emit[Event]) -> None:
        self._request = request
        self._tiers = tiers
        self._emit = emit
        self._visuals = request.prompt.visuals
        self._terms = CallTerms(request.deadline, tiers.retries.attempts())
        self._said = _Said()

    @property
    def text(self) -> str:
        """The first answer as far as it was emitted."""
        return "".join(self._said.texts)

    async def run(self) -> Answer:
        """Emit what happens and return the answer.

        Raises:
            ServingError: whatever went wrong on either tier, with the fields of the public request.
        """
        layouts_are_fresh = False
        while True:
            try:
                return await self._attempt()
            except StaleLayout:
                if self._said.model is not None or layouts_are_fresh:
                    raise
                for visual in self._visuals:
                    self._tiers.layouts.forget(visual.media)
                layouts_are_fresh = True
            except ReplicaLost as lost:
                if self._said.deltas and not self._can_resume:
                    raise
                await self._terms.attempts.again(lost)
                if self._said.deltas:
                    metrics.RESUMED.inc()

    @property
    def _can_resume(self) -> bool:
        """Of several answers, the language tier can continue none."""
        return self._request.options.sampling.n <= 1

    async def _attempt(self) -> Answer:
        async with AsyncExitStack() as stack:
            layouts, sources = await self._lay_out(stack)
            generation = await self._generate(layouts, stack)
            with self._request.prompt.naming_errors():
                admission = await generation.admitted()
            supplies = await self._meet(admission.needed, layouts, sources, stack)
            await self._announce(admission, layouts)
            return await self._exchange(generation, supplies)

    async def _announce(self, admission: Admission, layouts: dict[Media, Layout]) -> None:
        """Say once that the turn is under way; after a loss, see that the same model goes on."""
        if self._said.model is None:
            self._said.model = admission.model
            await self._emit(self._started(admission, layouts))
        elif self._said.deltas and self._said.model != admission.model:
            raise Unavailable("the language service changed its model during the answer; ask again")

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
        generation = self._tiers.llm.generate(
            request.prompt, layouts, request.options, self._said.token_ids, self._terms
        )
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
        source = open_source(visual, first_tile, tiers.vision, tiers.media, self._terms)
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
        if not supplies:
            await generation.done_sending()
            with self._request.prompt.naming_errors():
                return await self._collect(generation)
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
                if number >= self._said.tiles.get(visual.index, 0):
                    self._said.tiles[visual.index] = number + 1
                    await self._emit(Progress(visual.index, number + 1, layout.tiles))
        await generation.done_sending()

    async def _collect(self, generation: GenerateStream) -> Answer:
        said = self._said
        outcome: Outcome | None = None
        async for piece in generation.deltas():
            if isinstance(piece, Outcome):
                outcome = piece
                continue
            if piece.text and not said.first_text_s:
                said.first_text_s = time.monotonic() - self._request.arrived
                metrics.FIRST_TEXT_SECONDS.observe(said.first_text_s)
            said.add(piece)
            await self._emit(piece)
        if outcome is None:
            raise InternalError("the language service ended its answer without a result")
        return Answer(self.text, outcome, said.first_text_s)


@dataclass(slots=True)
class _Said:
    """What was emitted so far: what a resumed answer goes on behind.

    Attributes:
        model: weights that answer; None until the turn was announced.
        deltas: pieces of all answers.
        token_ids: of the first answer.
        texts: of the first answer, which is the one that a conversation keeps.
        tiles: how many were reported of each item, by its number.
        first_text_s: from the arrival of the request to the first text; 0 until there is any.
    """

    model: str | None = None
    deltas: int = 0
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tiles: dict[int, int] = field(default_factory=dict)
    first_text_s: float = 0.0

    def add(self, delta: Delta) -> None:
        self.deltas += 1
        if delta.choice == 0:
            self.token_ids.extend(delta.message.token_ids)
            self.texts.append(delta.text)
