"""The language service on a tiny random model, and a client that speaks its streams by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from prometheus_client import REGISTRY

from internvl.errors import ServingError
from internvl.model_choice import ModelChoice
from internvl.rpc import ServerConfig, error_from_rpc, open_channel, serving
from internvl.tensors import BFLOAT16, to_proto
from internvl.v1 import content_pb2, llm_service_pb2, llm_service_pb2_grpc, tensor_pb2
from llm_service.config import Config, EngineConfig
from llm_service.engine.limits import blocks_for
from llm_service.kv_budget import KvBudget
from llm_service.server import SERVICE_NAME
from llm_service.service import open_service, registration
from tests.unit.llm_samples import HIDDEN, TOKENS_PER_TILE

SHAPE = (TOKENS_PER_TILE, HIDDEN)
IDLE = (0, 0, 0)
"""What `gauges` shows when nothing is going on."""

BLOCK_TOKENS = 8
BLOCK_BYTES = BLOCK_TOKENS * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, channels, float32

_CACHE = KvBudget(amount=32 * 2**20)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    stub: llm_service_pb2_grpc.LlmServiceAsyncStub
    channel: grpc.aio.Channel
    port: int

    def generate(self, opening: llm_service_pb2.GenerateOpen, **options: Any) -> Stream:
        return Stream(self.stub.Generate(**options), opening)

    async def answer(
        self, opening: llm_service_pb2.GenerateOpen, tiles: list[content_pb2.Tile] | None = None
    ) -> Answer:
        """The whole answer; of the tiles, those that are needed are sent once it is admitted."""
        stream = self.generate(opening)
        admitted = await stream.admitted()
        first = {need.visual_id: need.first_tile for need in admitted.needed}
        needed = [tile for tile in tiles or () if tile.index >= first.get(tile.visual_id, tile.index + 1)]
        await stream.send(*needed)
        return await stream.rest()

    async def error(
        self, opening: llm_service_pb2.GenerateOpen, tiles: list[content_pb2.Tile] | None = None
    ) -> ServingError:
        """What the request fails with."""
        stream = self.generate(opening)
        try:
            await stream.admitted()
            await stream.send(*tiles or ())
            await stream.rest()
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error, "language service")
        raise AssertionError("the request did not fail")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: the text and tokens of the first, and everything that came."""

    text: str
    token_ids: list[int]
    deltas: list[llm_service_pb2.TokenDelta]
    result: llm_service_pb2.GenerateResult

    def tokens_of(self, choice: int) -> list[int]:
        return [token for delta in self.deltas if delta.choice == choice for token in delta.token_ids]

    @property
    def logprobs(self) -> list[llm_service_pb2.TokenLogprob]:
        return [logprob for delta in self.deltas for logprob in delta.logprobs]


class Stream:
    """One Generate call, message by message."""

    def __init__(self, call: Any, opening: llm_service_pb2.GenerateOpen) -> None:
        self.call = call
        self._opening = opening

    async def admitted(self) -> llm_service_pb2.Admitted:
        await self.write(llm_service_pb2.GenerateRequest(open=self._opening))
        response = await self.read()
        assert response.WhichOneof("message") == "admitted"
        return response.admitted

    async def send(self, *tiles: content_pb2.Tile) -> None:
        for tile in tiles:
            await self.write(llm_service_pb2.GenerateRequest(tile=tile))

    async def write(self, message: llm_service_pb2.GenerateRequest) -> None:
        """Write, or raise what the call failed with: grpc itself only says that it is over."""
        try:
            await self.call.write(message)
        except (grpc.aio.UsageError, grpc.aio.InternalError, AssertionError):
            await self.read()
            raise

    async def read(self) -> llm_service_pb2.GenerateResponse:
        response = await self.call.read()
        assert response is not grpc.aio.EOF
        return response

    async def delta(self) -> llm_service_pb2.TokenDelta:
        response = await self.read()
        assert response.WhichOneof("message") == "delta"
        return response.delta

    async def rest(self) -> Answer:
        """Everything up to the result, which must be the last message."""
        deltas = []
        while (response := await self.read()).WhichOneof("message") == "delta":
            deltas.append(response.delta)
        assert await self.call.read() is grpc.aio.EOF
        first = [delta for delta in deltas if delta.choice == 0]
        token_ids = [token for delta in first for token in delta.token_ids]
        return Answer("".join(delta.text for delta in first), token_ids, deltas, response.result)


def room_for(tokens: int) -> KvBudget:
    """A cache for so many tokens of the tiny model, whole blocks of them."""
    return KvBudget(amount=blocks_for(tokens, BLOCK_TOKENS) * BLOCK_BYTES)


@asynccontextmanager
async def llm_service(folder: Path, **engine: Any) -> AsyncIterator[Service]:
    """Start the service; `engine` are fields of `EngineConfig`."""
    server = ServerConfig(listen="127.0.0.1:0", grace_s=20.0)
    config = Config(ModelChoice(folder), server, EngineConfig(**{"kv_budget": _CACHE} | engine))
    async with (
        open_service(config, on_crash=lambda: None) as service,
        serving(server, registration(service), [SERVICE_NAME]) as running,
        open_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        yield Service(llm_service_pb2_grpc.LlmServiceStub(channel), channel, running.port)


def text(content: str) -> llm_service_pb2.PromptPart:
    return llm_service_pb2.PromptPart(text=content)


def visual(
    visual_id: str = "a", columns: int = 2, rows: int = 1, **changes: Any
) -> llm_service_pb2.PromptPart:
    """A picture of columns x rows tiles, in bfloat16."""
    fields = {
        "visual_id": visual_id,
        "kind": content_pb2.MEDIA_KIND_IMAGE,
        "grids": [content_pb2.TileGrid(columns=columns, rows=rows)],
        "tiles": columns * rows,
        "tokens_per_tile": TOKENS_PER_TILE,
        "hidden_size": HIDDEN,
        "dtype": tensor_pb2.DATA_TYPE_BFLOAT16,
    }
    return llm_service_pb2.PromptPart(visual=content_pb2.VisualLayout(**fields | changes))


def user(*parts: llm_service_pb2.PromptPart | str) -> llm_service_pb2.PromptMessage:
    return message(content_pb2.ROLE_USER, *parts)


def message(
    role: content_pb2.Role.ValueType, *parts: llm_service_pb2.PromptPart | str
) -> llm_service_pb2.PromptMessage:
    made = [text(part) if isinstance(part, str) else part for part in parts]
    return llm_service_pb2.PromptMessage(role=role, parts=made)


def opening(*messages: llm_service_pb2.PromptMessage, **sampling: Any) -> llm_service_pb2.GenerateOpen:
    """A request of at most 6 tokens unless `sampling` says otherwise."""
    params = llm_service_pb2.SamplingParams(**{"max_tokens": 6} | sampling)
    return llm_service_pb2.GenerateOpen(messages=messages, sampling=params)


def tile(visual_id: str, index: int, values: np.ndarray | None = None) -> content_pb2.Tile:
    """Random embeddings, different for every tile."""
    if values is None:
        generator = np.random.default_rng([*visual_id.encode(), index])
        values = generator.standard_normal(SHAPE).astype(BFLOAT16)
    return content_pb2.Tile(visual_id=visual_id, index=index, embeddings=to_proto(values))


def gauges() -> tuple[float | None, ...]:
    """Waiting and running requests, and the cache room they hold."""
    names = ("requests_waiting", "requests_running", "kv_tokens")
    return tuple(REGISTRY.get_sample_value(f"internvl_llm_{name}") for name in names)


def counter(name: str, **labels: str) -> float | None:
    """The value of a metric of the language tier; None before it was first counted."""
    return REGISTRY.get_sample_value(f"internvl_llm_{name}", labels)
