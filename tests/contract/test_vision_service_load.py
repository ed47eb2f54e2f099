"""The vision service under several callers: sharing, cancelling, overload, failure, health and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import prometheus_client
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from internvl import errors
from internvl.rpc import error_from_rpc, open_channel
from internvl.tensors import from_proto
from internvl.v1 import vision_service_pb2, vision_service_pb2_grpc
from tests.contract.vision_samples import (
    Encoded,
    Open,
    Stub,
    collect,
    encode,
    held_model,
    image,
    requests,
    serve_vision,
    small_config,
    vision_stub,
    with_limits,
)
from tests.unit.media_samples import encoded, picture
from vision_service.config import Config
from vision_service.encoder import EncoderConfig
from vision_service.server import SERVICE_NAME

PHOTO = encoded(picture(170, 120))
DOCUMENT = encoded(picture(500, 400, seed=1))


def config_of(folder: Path, *, batch_tiles: int = 4) -> Config:
    return replace(small_config(folder), encoder=EncoderConfig(batch_tiles=batch_tiles))


def start(stub: Stub, data: bytes, open_message: Open | None = None) -> Any:
    return stub.Encode(requests(open_message or image(), data), timeout=60)


async def finish(call: Any) -> Encoded:
    return collect([response async for response in call])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the compute thread and grpc have no event to wait for)
            await asyncio.sleep(0.01)


def metric(name: str, **labels: str) -> float:
    value = prometheus_client.REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


def test_concurrent_clients_get_what_each_gets_alone(vision: Stub) -> None:
    """Batches mix the tiles of several requests; the answers must not."""
    files = [encoded(picture(150 + 20 * number, 120, seed=number)) for number in range(4)]
    alone = [encode(vision, image(), data) for data in files]
    together: list[Encoded | None] = [None] * len(files)

    def run(number: int) -> None:
        together[number] = encode(vision, image(), files[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for expected, found in zip(alone, together, strict=True):
        assert found is not None
        assert found.layout == expected.layout
        for left, right in zip(expected.tiles, found.tiles, strict=True):
            want = from_proto(left.embeddings, "tile").astype(np.float32)
            got = from_proto(right.embeddings, "tile").astype(np.float32)
            np.testing.assert_allclose(got, want, rtol=0.02, atol=1e-3)


def test_a_photo_passes_a_document(vision_checkpoint: Path) -> None:
    """While the first batch of a long request runs, a short one arrives: it is done before the long one."""

    async def scenario() -> None:
        model = held_model(vision_checkpoint)
        async with vision_stub(config_of(vision_checkpoint), model) as stub:
            order: list[str] = []

            async def run(name: str, call: Any) -> None:
                await finish(call)
                order.append(name)

            document = asyncio.ensure_future(run("document", start(stub, DOCUMENT, image(max_tiles=24))))
            await until(model.hold.began.is_set)
            left = metric("internvl_vision_queued_tiles")
            photo = asyncio.ensure_future(run("photo", start(stub, PHOTO, image(max_tiles=1))))
            await until(lambda: metric("internvl_vision_queued_tiles") == left + 1)
            model.hold.gate.set()
            await asyncio.gather(document, photo)
            assert order == ["photo", "document"]

    asyncio.run(scenario())


def test_cancelling_frees_everything_within_a_batch(vision_checkpoint: Path) -> None:
    async def scenario() -> None:
        model = held_model(vision_checkpoint)
        async with vision_stub(config_of(vision_checkpoint), model) as stub:
            call = start(stub, DOCUMENT, image(max_tiles=24))
            assert (await anext(aiter(call))).layout.tiles > 16
            await until(model.hold.began.is_set)
            call.cancel()
            await until(lambda: metric("internvl_vision_open_requests") == 0)
            assert metric("internvl_vision_queued_tiles") == 0
            model.hold.gate.set()
            assert len((await finish(start(stub, PHOTO))).tiles) == 7
            assert model.hold.batches == [1, 1, 4, 2]

    asyncio.run(scenario())


def test_cancelling_an_upload_frees_its_place(vision_checkpoint: Path) -> None:
    async def scenario() -> None:
        config = with_limits(config_of(vision_checkpoint), max_open_requests=1)
        async with vision_stub(config) as stub:
            call = stub.Encode(timeout=60)
            await call.write(vision_service_pb2.EncodeRequest(open=image()))
            await until(lambda: metric("internvl_vision_open_requests") == 1)
            call.cancel()
            await until(lambda: metric("internvl_vision_open_requests") == 0)
            assert len((await finish(start(stub, PHOTO))).tiles) == 7

    asyncio.run(scenario())


@pytest.mark.parametrize("silent_from", ["the start", "the open message"])
def test_an_upload_must_arrive_in_time(vision_checkpoint: Path, silent_from: str) -> None:
    async def scenario() -> None:
        async with vision_stub(with_limits(config_of(vision_checkpoint), upload_timeout_s=0.2)) as stub:
            call = stub.Encode(timeout=20)
            if silent_from == "the open message":
                await call.write(vision_service_pb2.EncodeRequest(open=image()))
            with pytest.raises(grpc.RpcError) as failed:
                await call.read()
            error = error_from_rpc(failed.value, "vision service")
            assert isinstance(error, errors.DeadlineExceeded)
            assert error.message == "the file was not complete within 0.2 s"

    asyncio.run(scenario())


def test_a_client_that_is_still_sending_sees_the_refusal(vision_checkpoint: Path) -> None:
    """Without care, grpc.aio reports INTERNAL instead, whenever a write fails before the status is read."""

    async def scenario() -> None:
        async with vision_stub(with_limits(config_of(vision_checkpoint), max_media_bytes=3000)) as stub:
            for _ in range(10):
                with pytest.raises(grpc.RpcError) as failed:
                    await finish(start(stub, DOCUMENT))
                error = error_from_rpc(failed.value, "vision service")
                assert error.message == "chunk: the file is longer than the limit of 3000 bytes"

    asyncio.run(scenario())


@pytest.mark.parametrize("bound", ["requests", "tiles"])
def test_overload_is_told_with_a_delay(vision_checkpoint: Path, bound: str) -> None:
    """The request in progress is not disturbed, and health answers all the while."""

    async def scenario() -> None:
        model = held_model(vision_checkpoint)
        config = config_of(vision_checkpoint)
        if bound == "requests":
            config = with_limits(config, max_open_requests=1)
        else:
            config = replace(config, encoder=EncoderConfig(batch_tiles=1, max_queued_tiles=8))
        async with (
            serve_vision(config, model) as running,
            open_channel(f"127.0.0.1:{running.port}") as channel,
        ):
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            busy = aiter(start(stub, PHOTO))
            await anext(busy)
            await until(model.hold.began.is_set)
            with pytest.raises(grpc.RpcError) as failed:
                await finish(start(stub, PHOTO))
            error = error_from_rpc(failed.value, "vision service")
            assert isinstance(error, errors.Overloaded)
            assert error.retry_after_s > 0
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            model.hold.gate.set()
            assert len([response async for response in busy]) == 8

    asyncio.run(scenario())


def test_a_failing_batch_fails_its_requests_only(vision_checkpoint: Path) -> None:
    async def scenario() -> None:
        model = held_model(vision_checkpoint)
        model.hold.gate.set()
        model.hold.failures = 1
        async with vision_stub(config_of(vision_checkpoint), model) as stub:
            with pytest.raises(grpc.RpcError) as failed:
                await finish(start(stub, PHOTO))
            error = error_from_rpc(failed.value, "vision service")
            assert isinstance(error, errors.InternalError)
            assert error.message == "the encoder failed; its log has the details"
            assert len((await finish(start(stub, PHOTO))).tiles) == 7

    asyncio.run(scenario())


def test_stopping_finishes_the_running_stream(vision_checkpoint: Path) -> None:
    async def scenario() -> None:
        model = held_model(vision_checkpoint)
        config = config_of(vision_checkpoint)
        service = serve_vision(config, model)
        running = await service.__aenter__()
        async with open_channel(f"127.0.0.1:{running.port}") as channel:
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            call = aiter(start(stub, PHOTO))
            assert (await anext(call)).layout.tiles == 7
            stopping = asyncio.ensure_future(service.__aexit__(None, None, None))
            await until(model.hold.began.is_set)
            model.hold.gate.set()
            rest = [response async for response in call]
            assert [response.WhichOneof("message") for response in rest] == ["tile"] * 7 + ["summary"]
            await asyncio.wait_for(stopping, 20)

    asyncio.run(scenario())


def test_decoding_beside_the_encoder_is_counted(vision_checkpoint: Path) -> None:
    model = held_model(vision_checkpoint)
    decoded = "internvl_vision_decode_seconds_count"
    overlapped = "internvl_vision_decode_overlapped_seconds_total"

    async def scenario() -> None:
        async with vision_stub(config_of(vision_checkpoint), model) as stub:
            before = metric(overlapped)
            photo = asyncio.ensure_future(finish(start(stub, PHOTO)))
            await until(model.hold.began.is_set)
            assert metric(overlapped) == before  # nothing was computed while the first was decoded

            files = metric(decoded, kind="image")
            document = asyncio.ensure_future(finish(start(stub, DOCUMENT)))
            await until(lambda: metric(decoded, kind="image") > files)
            assert metric(overlapped) > before
            model.hold.gate.set()
            await asyncio.gather(photo, document)

    asyncio.run(scenario())


def test_metrics_tell_what_was_done(vision_checkpoint: Path) -> None:
    names = ("encoded_tiles_total", "batch_tiles_sum", "sent_bytes_total", "encoder_busy_seconds_total")

    async def scenario() -> tuple[Encoded, list[float]]:
        async with vision_stub(config_of(vision_checkpoint)) as stub:
            before = [metric(f"internvl_vision_{name}") for name in names]
            answer = await finish(start(stub, PHOTO))
            after = [metric(f"internvl_vision_{name}") for name in names]
            return answer, [now - earlier for now, earlier in zip(after, before, strict=True)]

    answer, (encoded_tiles, batched_tiles, sent_bytes, busy_s) = asyncio.run(scenario())
    assert encoded_tiles == batched_tiles == len(answer.tiles) == 7
    assert sent_bytes == sum(len(tile.embeddings.data) for tile in answer.tiles)
    assert busy_s > 0
