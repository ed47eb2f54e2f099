"""A language tier that follows the contract and repeats what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc

from internvl.errors import InvalidField, ServingError
from internvl.v1 import content_pb2, llm_service_pb2
from tests.contract.fake_vision import TOKENS_PER_TILE

Context = grpc.aio.ServicerContext[Any, Any]


class FakeLlm:
    """Waits for its tiles and repeats the last text of the prompt, word by word; more answers are louder.

    Attributes:
        opened: every `open` message.
        received: every tile frame, as the bytes that arrived.
        cached: visual ids held, with the number of tiles held of each; what is complete is not asked for.
        active: Generate calls under way.
        most_active: the most there ever were.
        time_left_s: until the deadline of the last Generate, when it came.
        reading: cleared, it takes no tiles.
        gate: cleared, it holds words back.
        refusal: raised instead of `admitted`.
        failure: raised after the first word.
        hold_at: number of the word at which it stops until `released` is set.
        model: fingerprint of its weights.
    """

    def __init__(self) -> None:
        self.opened: list[llm_service_pb2.GenerateOpen] = []
        self.received: list[bytes] = []
        self.cached: dict[str, int] = {}
        self.active = self.most_active = 0
        self.time_left_s: float | None = None
        self.idle = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: ServingError | None = None
        self.failure: ServingError | None = None
        self.hold_at: int | None = None
        self.released = asyncio.Event()
        self.model = "parrot-1"

    async def generate(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        """`Generate` over undecoded requests."""
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.time_left_s = context.time_remaining()
        self.idle.clear()
        try:
            async for response in self._generate(requests):
                yield response
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    async def _generate(
        self, requests: AsyncIterator[bytes]
    ) -> AsyncIterator[llm_service_pb2.GenerateResponse]:
        opening = llm_service_pb2.GenerateRequest.FromString(await anext(requests)).open
        self.opened.append(opening)
        if self.refusal is not None:
            raise self.refusal
        layouts = _layouts(opening)
        tokens = 10 + sum(layout.tiles * TOKENS_PER_TILE for layout in layouts)
        tiles = {layout.visual_id: layout.tiles for layout in layouts}
        needed = self._needed(tiles)
        yield llm_service_pb2.GenerateResponse(admitted=self._admitted(opening.request_id, tokens, needed))
        for need in needed:
            if not await self._take_tiles(need, tiles[need.visual_id], requests):
                return
        words = [part.text for part in opening.messages[-1].parts if part.HasField("text")][-1].split()
        async for delta in self._repeat(words, opening):
            yield llm_service_pb2.GenerateResponse(delta=delta)
        yield llm_service_pb2.GenerateResponse(result=_result(opening, tokens, len(words)))

    def _needed(self, tiles: Mapping[str, int]) -> list[llm_service_pb2.VisualNeed]:
        return [
            llm_service_pb2.VisualNeed(visual_id=name, first_tile=self.cached.get(name, 0))
            for name, count in tiles.items()
            if self.cached.get(name, 0) < count
        ]

    def _admitted(
        self, request_id: str, tokens: int, needed: Sequence[llm_service_pb2.VisualNeed]
    ) -> llm_service_pb2.Admitted:
        return llm_service_pb2.Admitted(
            request_id=request_id,
            weights_fingerprint=self.model,
            prompt_tokens=tokens,
            cached_tokens=0 if needed else tokens - 10,
            needed=needed,
        )

    async def _take_tiles(
        self, need: llm_service_pb2.VisualNeed, count: int, requests: AsyncIterator[bytes]
    ) -> bool:
        """Whether all came; the requests of a gateway that leaves end before this call is cancelled."""
        for index in range(need.first_tile, count):
            await self.reading.wait()
            frame = await anext(requests, None)
            if frame is None:
                return False
            self.received.append(frame)
            tile = llm_service_pb2.GenerateRequest.FromString(frame).tile
            if (tile.visual_id, tile.index) != (need.visual_id, index):
                raise InvalidField("tile", "not the tile that was asked for")
        self.cached[need.visual_id] = count
        return True

    async def _repeat(
        self, words: Sequence[str], opening: llm_service_pb2.GenerateOpen
    ) -> AsyncIterator[llm_service_pb2.TokenDelta]:
        """The words behind those delivered before, with every hindrance that was set."""
        for number in range(len(opening.delivered_token_ids), len(words)):
            await self.gate.wait()
            if self.hold_at == number:
                await self.released.wait()
            if self.failure is not None and number:
                raise self.failure
            word = words[number] if not number else f" {words[number]}"
            for delta in _deltas(word, number, opening.sampling):
                yield delta

    async def count_tokens(
        self, request: llm_service_pb2.CountTokensRequest, context: Context
    ) -> llm_service_pb2.CountTokensResponse:
        parts = [part for message in request.messages for part in message.parts]
        visual = sum(part.visual.tiles * part.visual.tokens_per_tile for part in parts)
        return llm_service_pb2.CountTokensResponse(
            prompt_tokens=visual + 10,
            visual_tokens=visual,
            context_limit=200,
            cached_tokens=7,
            needed=[
                llm_service_pb2.VisualNeed(
                    visual_id=part.visual.visual_id, first_tile=self.cached.get(part.visual.visual_id, 0)
                )
                for part in parts
                if part.visual.visual_id
            ],
            kv_bytes=(visual + 10 + request.max_tokens) * 100,
            kv_budget_bytes=15_000,
            expected_wait_ms=1.5,
        )

    async def model_info(
        self, request: llm_service_pb2.ModelInfoRequest, context: Context
    ) -> llm_service_pb2.ModelInfoResponse:
        return llm_service_pb2.ModelInfoResponse(model_name="parrot", context_limit=200)


def _layouts(opening: llm_service_pb2.GenerateOpen) -> list[content_pb2.VisualLayout]:
    return [part.visual for message in opening.messages for part in message.parts if part.HasField("visual")]


def _result(
    opening: llm_service_pb2.GenerateOpen, prompt_tokens: int, words: int
) -> llm_service_pb2.GenerateResult:
    end = llm_service_pb2.ChoiceResult(
        finish_reason=llm_service_pb2.FINISH_REASON_STOP, completion_tokens=words
    )
    return llm_service_pb2.GenerateResult(
        finish_reason=end.finish_reason,
        usage=llm_service_pb2.Usage(prompt_tokens=prompt_tokens, completion_tokens=words),
        timings=llm_service_pb2.Timings(prefill_ms=1.0),
        choices=[end] * (opening.sampling.n or 1),
        replay_bundle=b'{"version": 1}' if opening.want_replay_bundle else None,
    )


def _deltas(
    word: str, number: int, sampling: llm_service_pb2.SamplingParams
) -> list[llm_service_pb2.TokenDelta]:
    """The word in each of the answers: as it is in the first, louder in the others."""
    other = llm_service_pb2.TokenLogprob(token_id=99, logprob=-2.0, token=b"other")
    logprob = llm_service_pb2.TokenLogprob(
        token_id=number, logprob=-0.5, token=word.encode(), top=[other][: sampling.logprobs]
    )
    return [
        llm_service_pb2.TokenDelta(
            text=word.upper() if choice else word,
            token_ids=[number],
            choice=choice,
            logprobs=[logprob] if sampling.HasField("logprobs") else [],
        )
        for choice in range(sampling.n or 1)
    ]
