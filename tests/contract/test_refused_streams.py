"""Refusals of Generate: quick for clients that keep to the contract, and typed for those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from internvl.errors import FailedPrecondition, InvalidField, ServingError
from internvl.rpc import error_from_rpc, request_stream
from internvl.v1 import content_pb2, llm_service_pb2, llm_service_pb2_grpc, tensor_pb2
from tests.contract.llm_client import Service, llm_service, opening, user, visual
from tests.unit.event_loop import bounded

WRONG = opening(user(visual(), "Hello"), temperature=9)
FOREVER_S = 1000.0


def rushed() -> Iterator[llm_service_pb2.GenerateRequest]:
    """An opening that is refused, and far more than fits the connection behind it, unasked for."""
    yield llm_service_pb2.GenerateRequest(open=WRONG)
    embeddings = tensor_pb2.Tensor(data=bytes(64 * 1024))
    for index in range(100):
        yield llm_service_pb2.GenerateRequest(tile=content_pb2.Tile(index=index, embeddings=embeddings))


async def asynchronous(service: Service) -> ServingError:
    with pytest.raises(grpc.RpcError) as failed:
        async for _ in service.stub.Generate(rushed(), timeout=50):
            pass
    return error_from_rpc(failed.value, "language service")


async def synchronous(service: Service) -> ServingError:
    def call() -> ServingError:
        with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            answer = llm_service_pb2_grpc.LlmServiceStub(channel).Generate(rushed(), timeout=50)
            with pytest.raises(grpc.RpcError) as failed:
                list(answer)
        return error_from_rpc(failed.value, "language service")

    return await asyncio.to_thread(call)


@pytest.mark.parametrize("client", [asynchronous, synchronous])
@bounded
async def test_who_writes_before_being_asked_sees_the_refusal(
    folder: Path, client: Callable[[Service], Awaitable[ServingError]]
) -> None:
    async with llm_service(folder) as service:
        errors = [await client(service) for _ in range(8)]
    assert {(type(error), error.message) for error in errors} == {
        (InvalidField, "open.sampling.temperature: must be 0 to 2, got 9")
    }


@bounded
async def test_who_waits_to_be_asked_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_stream, "DRAIN_IDLE_S", FOREVER_S)
    monkeypatch.setattr(request_stream, "DRAIN_S", FOREVER_S)
    async with llm_service(folder, max_running=2) as service:
        assert isinstance(await service.error(WRONG), InvalidField)  # by whoever reads it
        assert isinstance(
            await service.error(opening(user("Hello"), n=3)), FailedPrecondition
        )  # by the engine
