"""Stand-ins for both model tiers, served over real gRPC, and a gateway in front of them.

They follow the contract but compute nothing, so a test can hold them back, break them, and look at every byte
that passed.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from gateway.config import Config
from gateway.server import SERVICE_NAMES, assembled
from internvl.errors import BadMedia, InvalidField, ServingError
from internvl.rpc import Running, ServerConfig, serving
from internvl.telemetry import configure_logging
from internvl.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    content_pb2,
    llm_service_pb2,
    vision_service_pb2,
    vision_service_pb2_grpc,
)

TILE_BYTES = 64 * 1024
TOKENS_PER_TILE = 16

Context = grpc.aio.ServicerContext[Any, Any]


def picture(tiles: int, name: str = "picture") -> bytes:
    """A file that the vision stand-in makes this many tiles of."""
    return f"{tiles} {name}".encode()


class FakeVision(vision_service_pb2_grpc.VisionServiceServicer):
    """Encodes `picture` files.

    Attributes:
        encoded: `(file, first_tile)` of every Encode.
        frames: every tile sent, serialised.
        active: Encode calls under way.
        reading: cleared, it takes no files.
        gate: cleared, it holds tiles back.
        model: part of every visual id.
        fail_at: tile number at which `failure` is raised.
    """

    def __init__(self) -> None:
        self.encoded: list[tuple[bytes, int]] = []
        self.inspected: list[bytes] = []
        self.frames: list[bytes] = []
        self.active = 0
        self.idle = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.model = "encoder-1"
        self.fail_at: int | None = None
        self.failure: ServingError = BadMedia("chunk", "the picture is damaged or cut short")

    async def Encode(
        self, request_iterator: AsyncIterator[vision_service_pb2.EncodeRequest], context: Context
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        self.active += 1
        self.idle.clear()
        try:
            async for response in self._encode(request_iterator):
                yield response
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    async def _encode(
        self, requests: AsyncIterator[vision_service_pb2.EncodeRequest]
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        opening = (await anext(requests)).open
        await self.reading.wait()
        file = b"".join([request.chunk async for request in requests])
        self.encoded.append((file, opening.first_tile))
        if opening.size_bytes != len(file):
            raise InvalidField("open.size_bytes", "does not match the file")
        if opening.image.HasField("max_tiles") and not opening.image.max_tiles:
            raise InvalidField("open.image.max_tiles", "must be at least 1, got 0")
        layout = self._layout(file, opening)
        yield vision_service_pb2.EncodeResponse(layout=layout)
        for index in range(opening.first_tile, layout.tiles):
            await self.gate.wait()
            if index == self.fail_at:
                raise self.failure
            tile = content_pb2.Tile(visual_id=layout.visual_id, index=index)
            tile.embeddings.data = hashlib.sha256(f"{layout.visual_id} {index}".encode()).digest() * (
                TILE_BYTES // 32
            )
            response = vision_service_pb2.EncodeResponse(tile=tile)
            self.frames.append(response.SerializeToString())
            yield response
        summary = vision_service_pb2.EncodeSummary(tiles=layout.tiles - opening.first_tile)
        yield vision_service_pb2.EncodeResponse(summary=summary)

    async def Plan(
        self, request: vision_service_pb2.PlanRequest, context: Context
    ) -> vision_service_pb2.PlanResponse:
        for number, item in enumerate(request.items):
            if item.image.HasField("max_tiles") and not item.image.max_tiles:
                raise InvalidField(f"items[{number}].image.max_tiles", "must be at least 1, got 0")
        layouts = [
            content_pb2.VisualLayout(tiles=item.width, tokens_per_tile=TOKENS_PER_TILE)
            for item in request.items
        ]
        return vision_service_pb2.PlanResponse(
            layouts=layouts, visual_tokens=sum(layout.tiles * TOKENS_PER_TILE for layout in layouts)
        )

    async def Inspect(
        self, request_iterator: AsyncIterator[vision_service_pb2.InspectRequest], context: Context
    ) -> vision_service_pb2.InspectResponse:
        file = b"".join([request.chunk async for request in request_iterator])
        self.inspected.append(file)
        return vision_service_pb2.InspectResponse(
            kind=content_pb2.MEDIA_KIND_IMAGE,
            width=_tiles(file),
            height=1,
            media_type="image/test",
            frame_count=1,
        )

    async def EncoderInfo(
        self, request: vision_service_pb2.EncoderInfoRequest, context: Context
    ) -> vision_service_pb2.EncoderInfoResponse:
        return vision_service_pb2.EncoderInfoResponse(model_name=self.model, tokens_per_tile=TOKENS_PER_TILE)

    def _layout(self, file: bytes, opening: vision_service_pb2.EncodeOpen) -> content_pb2.VisualLayout:
        options = opening.image if opening.HasField("image") else opening.video
        name = b"|".join((self.model.encode(), file, options.SerializeToString(deterministic=True)))
        return content_pb2.VisualLayout(
            visual_id=hashlib.sha256(name).hexdigest(),
            kind=content_pb2.MEDIA_KIND_IMAGE if opening.HasField("image") else content_pb2.MEDIA_KIND_VIDEO,
            grids=[content_pb2.TileGrid(columns=1, rows=_tiles(file))],
            tiles=_tiles(file),
            tokens_per_tile=TOKENS_PER_TILE,
        )


class FakeLlm:
    """Waits for its tiles and repeats the last text of the prompt, word by word; more answers are louder.

    Attributes:
        opened: every `open` message.
        received: every tile frame, as the bytes that arrived.
        cached: visual ids held, with the number of tiles held of each; what is complete is not asked for.
        active: Generate calls under way.
        time_left_s: until the deadline of the last Generate, when it came.
        reading: cleared, it takes no tiles.
        gate: cleared, it holds words back.
        refusal: raised instead of `admitted`.
        failure: raised after the first word.
    """

    def __init__(self) -> None:
        self.opened: list[llm_service_pb2.GenerateOpen] = []
        self.received: list[bytes] = []
        self.cached: dict[str, int] = {}
        self.active = 0
        self.time_left_s: float | None = None
        self.idle = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: ServingError | None = None
        self.failure: ServingError | None = None

    async def generate(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        """`Generate` over undecoded requests."""
        self.active += 1
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
        layouts = [
            part.visual for message in opening.messages for part in message.parts if part.HasField("visual")
        ]
        needed = {
            layout.visual_id: self.cached.get(layout.visual_id, 0)
            for layout in layouts
            if self.cached.get(layout.visual_id, 0) < layout.tiles
        }
        tokens = 10 + sum(layout.tiles * TOKENS_PER_TILE for layout in layouts)
        yield llm_service_pb2.GenerateResponse(
            admitted=llm_service_pb2.Admitted(
                request_id=opening.request_id,
                prompt_tokens=tokens,
                cached_tokens=0 if needed else tokens - 10,
                needed=[
                    llm_service_pb2.VisualNeed(visual_id=name, first_tile=first)
                    for name, first in needed.items()
                ],
            )
        )
        tiles = {layout.visual_id: layout.tiles for layout in layouts}
        for name, first in needed.items():
            for index in range(first, tiles[name]):
                await self.reading.wait()
                frame = await anext(requests, None)
                if frame is None:
                    return  # the gateway left; its requests end before this call is cancelled
                self.received.append(frame)
                tile = llm_service_pb2.GenerateRequest.FromString(frame).tile
                if (tile.visual_id, tile.index) != (name, index):
                    raise InvalidField("tile", "not the tile that was asked for")
            self.cached[name] = tiles[name]
        words = [part.text for part in opening.messages[-1].parts if part.HasField("text")][-1].split()
        for number, word in enumerate(words):
            await self.gate.wait()
            if self.failure is not None and number:
                raise self.failure
            for delta in _deltas(word if not number else f" {word}", number, opening.sampling):
                yield llm_service_pb2.GenerateResponse(delta=delta)
        end = llm_service_pb2.ChoiceResult(
            finish_reason=llm_service_pb2.FINISH_REASON_STOP, completion_tokens=len(words)
        )
        yield llm_service_pb2.GenerateResponse(
            result=llm_service_pb2.GenerateResult(
                finish_reason=end.finish_reason,
                usage=llm_service_pb2.Usage(prompt_tokens=tokens, completion_tokens=len(words)),
                timings=llm_service_pb2.Timings(prefill_ms=1.0),
                choices=[end] * (opening.sampling.n or 1),
                replay_bundle=b'{"version": 1}' if opening.want_replay_bundle else None,
            )
        )

    async def count_tokens(
        self, request: llm_service_pb2.CountTokensRequest, context: Context
    ) -> llm_service_pb2.CountTokensResponse:
        parts = [part for message in request.messages for part in message.parts]
        visual = sum(part.visual.tiles * part.visual.tokens_per_tile for part in parts)
        return llm_service_pb2.CountTokensResponse(
            prompt_tokens=visual + 10, visual_tokens=visual, context_limit=200
        )

    async def model_info(
        self, request: llm_service_pb2.ModelInfoRequest, context: Context
    ) -> llm_service_pb2.ModelInfoResponse:
        return llm_service_pb2.ModelInfoResponse(model_name="parrot", context_limit=200)


@dataclass
class Stack:
    """A gateway over both stand-ins.

    Attributes:
        chat: stub of the gateway.
    """

    vision: FakeVision = field(default_factory=FakeVision)
    llm: FakeLlm = field(default_factory=FakeLlm)
    address: str = ""
    chat: Any = None
    vision_server: Running | None = None
    llm_server: Running | None = None


@asynccontextmanager
async def gateway_stack(config: Config | None = None) -> AsyncIterator[Stack]:
    """Serve both stand-ins and a gateway on free ports."""
    configure_logging("warning")
    stack = Stack()
    quick = ServerConfig("127.0.0.1:0", grace_s=0.0)
    async with (
        serving(quick, lambda server: _add_vision(stack.vision, server), ()) as vision,
        serving(quick, lambda server: _add_llm(stack.llm, server), ()) as llm,
    ):
        stack.vision_server, stack.llm_server = vision, llm
        config = replace(
            config or Config(quick),
            server=quick,
            vision=f"127.0.0.1:{vision.port}",
            llm=f"127.0.0.1:{llm.port}",
        )
        async with assembled(config) as register, serving(quick, register, SERVICE_NAMES) as gateway:
            stack.address = f"127.0.0.1:{gateway.port}"
            async with grpc.aio.insecure_channel(stack.address) as channel:
                stack.chat = chat_service_pb2_grpc.ChatServiceStub(channel)
                yield stack


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


def user(*parts: str | bytes | content_pb2.Part) -> content_pb2.Message:
    """A user message: texts, pictures as bytes, or ready parts."""
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[_part(part) for part in parts])


def chat_request(*parts: str | bytes | content_pb2.Part, **fields: Any) -> chat_service_pb2.ChatRequest:
    """A turn of one user message."""
    return chat_service_pb2.ChatRequest(messages=[user(*parts)], **fields)


def _part(part: str | bytes | content_pb2.Part) -> content_pb2.Part:
    if isinstance(part, content_pb2.Part):
        return part
    if isinstance(part, str):
        return content_pb2.Part(text=part)
    return content_pb2.Part(image=content_pb2.Image(source=content_pb2.MediaSource(data=part)))


def _tiles(file: bytes) -> int:
    count = file.split(b" ")[0]
    if not count.isdigit():
        raise BadMedia("chunk", "unknown format")
    return int(count)


def _add_vision(vision: FakeVision, server: grpc.aio.Server) -> None:
    vision_service_pb2_grpc.add_VisionServiceServicer_to_server(vision, server)


def _add_llm(llm: FakeLlm, server: grpc.aio.Server) -> None:
    """Register by hand: the generated function would decode the requests of `Generate`."""
    handlers = {
        "Generate": grpc.stream_stream_rpc_method_handler(
            llm.generate, response_serializer=llm_service_pb2.GenerateResponse.SerializeToString
        ),
        "CountTokens": grpc.unary_unary_rpc_method_handler(
            llm.count_tokens,
            request_deserializer=llm_service_pb2.CountTokensRequest.FromString,
            response_serializer=llm_service_pb2.CountTokensResponse.SerializeToString,
        ),
        "ModelInfo": grpc.unary_unary_rpc_method_handler(
            llm.model_info,
            request_deserializer=llm_service_pb2.ModelInfoRequest.FromString,
            response_serializer=llm_service_pb2.ModelInfoResponse.SerializeToString,
        ),
    }
    name = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


async def until(condition: Callable[[], object]) -> None:
    """Wait until something that has no event of its own holds; a hang fails within 10 seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def bounded(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on a loop of its own; a hang fails within 30 seconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run
