"""A vision service with a small random model, over real gRPC, for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from internvl.checkpoint import series_config, write_random_checkpoint
from internvl.errors import ServingError
from internvl.model_choice import ModelChoice
from internvl.rpc import Running, ServerConfig, error_from_rpc, open_channel, serving
from internvl.telemetry import configure_logging
from internvl.v1 import content_pb2, vision_service_pb2, vision_service_pb2_grpc
from vision_service.config import Config
from vision_service.decoding import DecodeConfig
from vision_service.encoder import TileModel
from vision_service.loading import LoadedModel, open_model
from vision_service.server import SERVICE_NAME
from vision_service.service import working_service

MAX_BYTES = 600_000
TILE_SIDE = 56
TOKENS_PER_TILE = 4
HIDDEN_SIZE = 48
CHUNK_BYTES = 1000

Open = vision_service_pb2.EncodeOpen
Stub = Any


def write_small_checkpoint(folder: Path, *, seed: int = 3, width: int = 1) -> Path:
    """The shape of the 4B model with a tower of two small layers and tiles of 56 pixels.

    Args:
        width: multiplies the channels of a visual token.
    """
    raw = series_config("InternVL2-4B")
    raw["force_image_size"] = TILE_SIDE
    raw["vision_config"] |= {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": TILE_SIDE,
    }
    raw["llm_config"] |= {
        "hidden_size": HIDDEN_SIZE * width,
        "num_hidden_layers": 1,
        "num_attention_heads": 4 * width,
        "num_key_value_heads": 4 * width,
        "intermediate_size": 64,
        "vocab_size": 100,
    }
    raw["llm_config"]["rope_scaling"] |= {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    write_random_checkpoint(folder, raw, seed=seed)
    return folder


def small_config(folder: Path) -> Config:
    """Quick limits for tests."""
    return Config(
        model=ModelChoice(folder, threads=None),
        server=ServerConfig(listen="127.0.0.1:0", grace_s=20.0),
        decode=DecodeConfig(workers=1, timeout_s=20.0),
    )


@dataclass(slots=True)
class Hold:
    """Control over a model: the gate holds every batch back; `batches` counts the tiles of those that began.

    Attributes:
        failures: batches that are still to fail.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    began: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _HeldEncoder:
    inner: TileModel
    hold: Hold

    def encode(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        self.hold.batches.append(len(tiles))
        self.hold.began.set()
        assert self.hold.gate.wait(timeout=30)
        if self.hold.failures:
            self.hold.failures -= 1
            raise RuntimeError("out of memory at 0x7f00")
        return self.inner.encode(tiles)


@dataclass(frozen=True, slots=True)
class HeldModel(LoadedModel):
    """A model whose encoder waits for `hold`."""

    hold: Hold = field(default_factory=Hold)

    def load_encoder(self, device: str, threads: int | None) -> TileModel:
        return _HeldEncoder(LoadedModel.load_encoder(self, device, threads), self.hold)


def held_model(folder: Path) -> HeldModel:
    model = open_model(ModelChoice(folder))
    return HeldModel(model.config, model._choice, model._checkpoint)


@asynccontextmanager
async def serve_vision(config: Config, model: LoadedModel | None = None) -> AsyncIterator[Running]:
    """A started service."""
    configure_logging("error")
    model = model or open_model(config.model)
    async with (
        working_service(model, config) as service,
        serving(
            config.server,
            lambda server: vision_service_pb2_grpc.add_VisionServiceServicer_to_server(service, server),
            [SERVICE_NAME],
        ) as running,
    ):
        yield running


@asynccontextmanager
async def vision_stub(config: Config, model: LoadedModel | None = None) -> AsyncIterator[Any]:
    """A started service and a stub that talks to it."""
    async with serve_vision(config, model) as running, open_channel(f"127.0.0.1:{running.port}") as channel:
        yield vision_service_pb2_grpc.VisionServiceStub(channel)


class ServedInThread:
    """A service on a thread of its own, for tests that only call."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(timeout=60)
        return f"127.0.0.1:{self._port}"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=60)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serve_vision(self._config) as running:
            self._port = running.port
            self._ready.set()
            await self._stop.wait()


@dataclass(frozen=True, slots=True)
class Encoded:
    """The messages of one successful encode."""

    layout: content_pb2.VisualLayout
    tiles: list[content_pb2.Tile]
    summary: vision_service_pb2.EncodeSummary


def requests(
    open_message: Open, data: bytes, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[vision_service_pb2.EncodeRequest]:
    """An encode stream: open, then the file in chunks."""
    yield vision_service_pb2.EncodeRequest(open=open_message)
    for start in range(0, len(data), chunk_bytes):
        yield vision_service_pb2.EncodeRequest(chunk=data[start : start + chunk_bytes])


def collect(responses: Iterable[vision_service_pb2.EncodeResponse]) -> Encoded:
    """Check the order of an answer and take it apart."""
    messages = list(responses)
    kinds = [message.WhichOneof("message") for message in messages]
    assert kinds == ["layout", *["tile"] * (len(kinds) - 2), "summary"]
    return Encoded(messages[0].layout, [message.tile for message in messages[1:-1]], messages[-1].summary)


def image(**options: Any) -> Open:
    return Open(image=content_pb2.ImageOptions(**options))


def video(**options: Any) -> Open:
    return Open(video=content_pb2.VideoOptions(**options))


def with_limits(config: Config, **limits: Any) -> Config:
    """The config with other request limits."""
    return replace(config, requests=replace(config.requests, **limits))


def encode(stub: Stub, open_message: Open, data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Encoded:
    return collect(stub.Encode(requests(open_message, data, chunk_bytes), timeout=60))


def refusal(call: Callable[[], object]) -> ServingError:
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return error_from_rpc(failed.value, "vision service")


class OpenStream:
    """A request stream that stays open after its first message."""

    def __init__(self, first: vision_service_pb2.EncodeRequest) -> None:
        self._first: vision_service_pb2.EncodeRequest | None = first
        self._released = threading.Event()

    def __iter__(self) -> OpenStream:
        return self

    def __next__(self) -> vision_service_pb2.EncodeRequest:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self._released.wait(timeout=30)
        raise StopIteration

    def release(self) -> None:
        self._released.set()
