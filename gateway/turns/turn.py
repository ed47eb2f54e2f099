"""One chat turn: pictures to the vision tier, their tiles to the language tier, its words to the client."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from gateway import metrics
from gateway.answer import Answer, Delta, Event, Outcome, Progress, Started
from gateway.concurrency import Emit, piped, task_group
from gateway.content import Layout, Media
from gateway.deadline import Deadline
from gateway.prompt import Prompt
from gateway.tiers.layouts import StaleLayout
from gateway.tiers.llm_backend import Admission, GenerateOptions, GenerateStream
from gateway.tiers.replica import ReplicaLost
from gateway.tiers.tier_calls import CallTerms
from gateway.turns.tiers import Tiers
from gateway.turns.tile_supply import Supply, TileSupply
from internvl.errors import InternalError, Unavailable


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
            tiles = TileSupply(self._visuals, self._tiers, self._terms, stack)
            layouts = await tiles.lay_out()
            generation = await self._generate(layouts, stack)
            with self._request.prompt.naming_errors():
                admission = await generation.admitted()
            await tiles.meet(admission.needed)
            await self._announce(admission, layouts)
            return await self._exchange(generation, tiles if admission.needed else None)

    async def _announce(self, admission: Admission, layouts: dict[Media, Layout]) -> None:
        """Say once that the turn is under way; after a loss, see that the same model goes on."""
        if self._said.model is None:
            self._said.model = admission.model
            await self._emit(self._started(admission, layouts))
        elif self._said.deltas and self._said.model != admission.model:
            raise Unavailable("the language service changed its model during the answer; ask again")

    async def _generate(self, layouts: dict[Media, Layout], stack: AsyncExitStack) -> GenerateStream:
        request = self._request
        generation = self._tiers.llm.generate(
            request.prompt, layouts, request.options, self._said.token_ids, self._terms
        )
        return await stack.enter_async_context(generation)

    def _started(self, admission: Admission, layouts: dict[Media, Layout]) -> Started:
        return Started(
            request_id=self._request.options.request_id,
            prompt_tokens=admission.prompt_tokens,
            cached_tokens=admission.cached_tokens,
            layouts=tuple(layouts[visual.media] for visual in self._visuals),
        )

    async def _exchange(self, generation: GenerateStream, tiles: TileSupply | None) -> Answer:
        """Tiles in, if any are needed, and words out, at the same time."""
        if tiles is None:
            await generation.done_sending()
            with self._request.prompt.naming_errors():
                return await self._collect(generation)
        async with task_group() as tasks:
            splicing = tasks.create_task(self._splice(generation, tiles))
            with self._request.prompt.naming_errors():
                answer = await self._collect(generation)
            splicing.cancel()
        return answer

    async def _splice(self, generation: GenerateStream, tiles: TileSupply) -> None:
        """Move the needed tiles, in order, as the bytes they are."""
        async with piped(tiles.supply, 1) as (supplies, _):
            async for supply in supplies:
                if not await self._move(generation, supply):
                    return
        await generation.done_sending()

    async def _move(self, generation: GenerateStream, supply: Supply) -> bool:
        """Move the tiles of one item; False if the call has ended."""
        visual, layout = supply.source.visual, supply.source.layout
        async for number, frame in supply.source.tiles(supply.first_tile):
            if not await generation.send(frame):
                return False
            metrics.TILES_FORWARDED.inc()
            metrics.TILE_BYTES_FORWARDED.inc(len(frame))
            if number >= self._said.tiles.get(visual.index, 0):
                self._said.tiles[visual.index] = number + 1
                await self._emit(Progress(visual.index, number + 1, layout.tiles))
        return True

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
