"""The shared server, channel and error mapping, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from internvl import errors
from internvl.rpc import ServerConfig, error_from_rpc, open_channel, serving
from internvl.v1 import content_pb2, llm_service_pb2, llm_service_pb2_grpc, tensor_pb2

SERVICE = "internvl.v1.LlmService"
CONFIG = ServerConfig(listen="127.0.0.1:0", grace_s=5.0)

RAISED = [
    errors.InvalidField("open.sampling.top_p", "must be above 0 to 1, got 2"),
    errors.ContextTooLong("open.messages", "9000 tokens, limit 8192", metadata={"limit": 8192}),
    errors.BadMedia("chunk", "the file is empty"),
    errors.NotFound("no such conversation"),
    errors.AlreadyExists("taken"),
    errors.Conflict("changed meanwhile"),
    errors.FailedPrecondition("wrong state"),
    errors.Overloaded("queue full", retry_after_s=1.5, metadata={"queue": 7}),
    errors.Unavailable("store is down"),
    errors.Cancelled("somebody ended it"),
    errors.DeadlineExceeded("too late"),
    errors.Unauthenticated("who are you"),
    errors.PermissionDenied("not yours"),
    errors.Unsupported("not offered"),
    errors.InternalError("our fault"),
]


class _Service(llm_service_pb2_grpc.LlmServiceServicer):
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.release = asyncio.Event()
        self.closed = asyncio.Event()

    async def ModelInfo(self, request, context):  # type: ignore[no-untyped-def]
        if self.error:
            raise self.error
        return llm_service_pb2.ModelInfoResponse(model_name="m")

    async def Generate(self, request_iterator, context) -> AsyncIterator[llm_service_pb2.GenerateResponse]:  # type: ignore[no-untyped-def]
        try:
            yield llm_service_pb2.GenerateResponse(admitted=llm_service_pb2.Admitted(request_id="a"))
            if self.error:
                raise self.error
            await self.release.wait()
            yield llm_service_pb2.GenerateResponse(result=llm_service_pb2.GenerateResult())
        finally:
            self.closed.set()


class _Reader(llm_service_pb2_grpc.LlmServiceServicer):
    """Reads what is sent."""

    async def CountTokens(self, request, context):  # type: ignore[no-untyped-def]
        return llm_service_pb2.CountTokensResponse(prompt_tokens=len(request.messages))

    async def Generate(self, request_iterator, context) -> AsyncIterator[llm_service_pb2.GenerateResponse]:  # type: ignore[no-untyped-def]
        async for _ in request_iterator:
            yield llm_service_pb2.GenerateResponse()


def _serve(service: llm_service_pb2_grpc.LlmServiceServicer):  # type: ignore[no-untyped-def]
    return serving(
        CONFIG, lambda s: llm_service_pb2_grpc.add_LlmServiceServicer_to_server(service, s), [SERVICE]
    )


@pytest.mark.parametrize("raised", RAISED, ids=lambda e: type(e).__name__)
def test_every_error_crosses_the_wire_with_its_details(raised: errors.ServingError) -> None:
    async def scenario() -> errors.ServingError:
        async with _serve(_Service(raised)) as running, open_channel(f"127.0.0.1:{running.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await llm_service_pb2_grpc.LlmServiceStub(channel).ModelInfo(
                    llm_service_pb2.ModelInfoRequest(), timeout=10
                )
            assert caught.value.code() is errors.status_code(raised)
            return error_from_rpc(caught.value, "llm service")

    seen = asyncio.run(scenario())
    assert (seen.message, seen.reason, seen.metadata) == (raised.message, raised.reason, raised.metadata)
    assert type(seen) is type(raised)
    if isinstance(raised, errors.InvalidField):
        assert isinstance(seen, errors.InvalidField)
        assert seen.field == raised.field
    if isinstance(raised, errors.Overloaded):
        assert isinstance(seen, errors.Overloaded)
        assert seen.retry_after_s == raised.retry_after_s


def test_every_class_of_the_tree_is_in_the_test_above() -> None:
    def leaves(kind: type[errors.ServingError]) -> set[type[errors.ServingError]]:
        return {kind}.union(*(leaves(child) for child in kind.__subclasses__()))

    public = {kind for kind in leaves(errors.ServingError) if kind.__module__ == "internvl.errors"}
    tested = {type(error) for error in RAISED}
    assert public - tested == {errors.ServingError}


def test_an_unexpected_exception_tells_nothing() -> None:
    async def scenario() -> grpc.aio.AioRpcError:
        service = _Service(ValueError("secret /etc/path 0x7f00"))
        async with _serve(service) as running, open_channel(f"127.0.0.1:{running.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await llm_service_pb2_grpc.LlmServiceStub(channel).ModelInfo(
                    llm_service_pb2.ModelInfoRequest(), timeout=10
                )
            return caught.value

    error = asyncio.run(scenario())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error)
    assert "0x7f" not in str(error)


_ASKED = [llm_service_pb2.PromptMessage(parts=[llm_service_pb2.PromptPart(text="??")])]
_COUNT = llm_service_pb2.CountTokensRequest(messages=_ASKED).SerializeToString()
_OPEN = llm_service_pb2.GenerateRequest(
    open=llm_service_pb2.GenerateOpen(messages=_ASKED)
).SerializeToString()


@pytest.mark.parametrize("damage", [lambda data: b"\xff" * 3, lambda data: data.replace(b"??", b"\xff\xfe")])
@pytest.mark.parametrize("method", ["CountTokens", "Generate"])
def test_bytes_that_are_no_message_are_refused_and_tell_nothing(
    method: str, damage: Callable[[bytes], bytes]
) -> None:
    async def call(channel: grpc.aio.Channel) -> None:
        if method == "CountTokens":
            await channel.unary_unary(f"/{SERVICE}/{method}")(damage(_COUNT), timeout=10)
        else:
            await channel.stream_unary(f"/{SERVICE}/{method}")(iter([damage(_OPEN)]), timeout=10)

    async def scenario() -> errors.ServingError:
        async with _serve(_Reader()) as running, open_channel(f"127.0.0.1:{running.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel)
            return error_from_rpc(caught.value, "llm service")

    seen = asyncio.run(scenario())
    assert isinstance(seen, errors.InvalidField)
    assert seen.field == "request"
    assert "protobuf" not in seen.message


def test_a_transport_failure_names_the_tier_and_no_address() -> None:
    async def scenario() -> errors.ServingError:
        async with open_channel("127.0.0.1:1") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await llm_service_pb2_grpc.LlmServiceStub(channel).ModelInfo(
                    llm_service_pb2.ModelInfoRequest(), timeout=10
                )
            return error_from_rpc(caught.value, "llm service")

    seen = asyncio.run(scenario())
    assert isinstance(seen, errors.Unavailable)
    assert "llm service" in seen.message
    assert "127.0.0.1" not in seen.message


def test_cancelling_a_stream_closes_the_handler() -> None:
    async def scenario() -> None:
        service = _Service()
        async with _serve(service) as running, open_channel(f"127.0.0.1:{running.port}") as channel:
            call = llm_service_pb2_grpc.LlmServiceStub(channel).Generate(iter([]))
            await call.read()
            call.cancel()
            await asyncio.wait_for(service.closed.wait(), timeout=10)

    asyncio.run(scenario())


def test_a_client_that_is_still_sending_sees_the_refusal() -> None:
    async def requests() -> AsyncIterator[llm_service_pb2.GenerateRequest]:
        embeddings = tensor_pb2.Tensor(data=bytes(64 * 1024))
        for index in range(200):
            yield llm_service_pb2.GenerateRequest(tile=content_pb2.Tile(index=index, embeddings=embeddings))

    async def refusal(channel: grpc.aio.Channel) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in llm_service_pb2_grpc.LlmServiceStub(channel).Generate(requests(), timeout=20):
                pass
        return caught.value.code()

    async def scenario() -> set[grpc.StatusCode]:
        service = _Service(errors.InvalidField("open", "must be the first message of the stream"))
        async with open_channel_to(service) as (channel, _):
            return {await refusal(channel) for _ in range(8)}

    assert asyncio.run(scenario()) == {grpc.StatusCode.INVALID_ARGUMENT}


def test_a_stopping_server_says_so_and_finishes_running_streams() -> None:
    async def scenario() -> list[str]:
        service = _Service()
        async with open_channel_to(service) as (channel, running):
            health = health_pb2_grpc.HealthStub(channel)
            stream = llm_service_pb2_grpc.LlmServiceStub(channel).Generate(iter([]))
            await stream.read()
            watch = health.Watch(health_pb2.HealthCheckRequest(service="ready"), timeout=10)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.ensure_future(running.stop(CONFIG))
            while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                pass
            watch.cancel()
            service.release.set()
            kinds = []
            while (response := await stream.read()) is not grpc.aio.EOF:
                kinds.append(response.WhichOneof("message"))
            await asyncio.wait_for(stopping, timeout=10)
            return kinds

    assert asyncio.run(scenario()) == ["result"]


def test_health_and_reflection_answer() -> None:
    async def scenario() -> tuple[int, list[str]]:
        async with open_channel_to(_Service()) as (channel, running):
            answers = [
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
                for name in ("", "live", "ready", SERVICE)
            ]
            assert {a.status for a in answers} == {health_pb2.HealthCheckResponse.SERVING}
            return await asyncio.to_thread(_reflected, running.port)

    assert SERVICE in asyncio.run(scenario())


def _reflected(port: int) -> list[str]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return list(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_a_taken_port_is_a_configuration_error() -> None:
    async def scenario() -> None:
        async with _serve(_Service()) as running:
            taken = ServerConfig(listen=f"127.0.0.1:{running.port}")
            with pytest.raises(errors.ConfigError, match="--listen"):
                async with serving(taken, lambda server: None, []):
                    pass

    asyncio.run(scenario())


@asynccontextmanager
async def open_channel_to(service: _Service):  # type: ignore[no-untyped-def]
    async with _serve(service) as running, open_channel(f"127.0.0.1:{running.port}") as channel:
        yield channel, running
