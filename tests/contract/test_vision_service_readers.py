"""Clients that do not read: what they cost is bounded, and they are cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import prometheus_client

from internvl.errors import Overloaded
from internvl.rpc import error_from_rpc
from internvl.v1 import content_pb2, tensor_pb2, vision_service_pb2_grpc
from tests.contract.vision_samples import (
    Open,
    held_model,
    image,
    requests,
    serve_vision,
    small_config,
    with_limits,
    write_small_checkpoint,
)
from tests.unit.event_loop import bounded, until
from tests.unit.media_samples import encoded, picture
from vision_service.encoder import EncoderConfig

WIDTH = 32
TILE_BYTES = 4 * 48 * WIDTH * 4
TILES = 31
# All that gRPC may hold of a call between the two ends; the rest waits in the service.
WINDOW = (("grpc.http2.lookahead_bytes", 16_384), ("grpc.http2.bdp_probe", 0))


def metric(name: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(f"internvl_vision_{name}") or 0.0


@bounded
async def test_a_stalled_reader_holds_a_few_tiles_and_is_cut(tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "wide", width=WIDTH)
    model = held_model(folder)
    model.hold.gate.set()
    config = with_limits(small_config(folder), reader_timeout_s=1.0, max_open_requests=1)
    config = replace(config, encoder=EncoderConfig(tiles_ahead=3), embedding_cache_bytes=0)
    data = encoded(picture(300, 250))
    large = Open(
        image=content_pb2.ImageOptions(min_tiles=TILES - 1, max_tiles=TILES - 1),
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
    )
    async with (
        serve_vision(config, model) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}", options=WINDOW) as channel,
    ):
        stub = vision_service_pb2_grpc.VisionServiceStub(channel)
        cut = metric("slow_readers_total")
        call = stub.Encode(requests(large, data), timeout=60)
        stream = aiter(call)
        assert (await anext(stream)).layout.tiles == TILES
        await until(lambda: metric("slow_readers_total") == cut + 1)
        # A place is free again, and what was encoded and not sent is gone.
        assert metric("open_requests") == 0
        assert metric("queued_tiles") == 0
        await until(lambda: metric("cache_bytes") <= 3 * TILE_BYTES)
        encoded_tiles = sum(model.hold.batches)
        assert encoded_tiles < TILES
        answers = [each async for each in stub.Encode(requests(image(max_tiles=1), data), timeout=60)]
        assert len(answers) == 3
        try:
            received = [each async for each in stream]
            raise AssertionError(f"{len(received)} messages and no error")
        except grpc.RpcError as failure:
            error = error_from_rpc(failure, "vision service")
    assert isinstance(error, Overloaded)
    assert error.message == "a message of the answer was not read within 1 s"
    assert sum(model.hold.batches) == encoded_tiles + 1
