"""Every failure reaches the caller as one class of the client's tree, with its field, delay and facts."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest

import internvl_client
from internvl import errors as serving
from internvl_client import AsyncClient, BadMedia, ContextTooLong, InternVLError, InvalidRequest, Overloaded
from internvl_client import errors as client_errors
from internvl_client.errors import ERROR_OF_STATUS
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded, gateway_stack

CLASS_OF = {
    serving.InvalidField: client_errors.InvalidRequest,
    serving.NotFound: client_errors.NotFound,
    serving.AlreadyExists: client_errors.AlreadyExists,
    serving.Conflict: client_errors.Conflict,
    serving.FailedPrecondition: client_errors.FailedPrecondition,
    serving.Overloaded: client_errors.Overloaded,
    serving.Unavailable: client_errors.Unavailable,
    serving.DeadlineExceeded: client_errors.TimedOut,
    serving.Cancelled: client_errors.Cancelled,
    serving.Unauthenticated: client_errors.Unauthenticated,
    serving.PermissionDenied: client_errors.PermissionDenied,
    serving.Unsupported: client_errors.Unsupported,
    serving.InternalError: client_errors.ServerError,
}


def test_every_status_has_a_class() -> None:
    assert set(ERROR_OF_STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_every_error_of_the_servers_has_a_class() -> None:
    assert set(CLASS_OF) == set(serving.STATUS_OF)
    for kind, code in serving.STATUS_OF.items():
        assert ERROR_OF_STATUS[code] is CLASS_OF[kind]


def test_every_error_class_is_public() -> None:
    classes = [
        each
        for each in vars(client_errors).values()
        if isinstance(each, type) and issubclass(each, InternVLError)
    ]
    assert {each.__name__ for each in classes} <= set(internvl_client.__all__)


def test_public_names_are_there_and_sorted() -> None:
    assert internvl_client.__all__ == sorted(internvl_client.__all__)
    assert all(hasattr(internvl_client, name) for name in internvl_client.__all__)


@pytest.mark.parametrize("kind", [kind for kind in CLASS_OF if kind is not serving.Unavailable])
@bounded
async def test_error_of_a_tier_arrives_typed(kind: type[serving.ServingError]) -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        match kind:
            case serving.InvalidField:
                stack.llm.refusal = serving.InvalidField("open.sampling.top_p", "must be above 0 to 1, got 0")
            case serving.Overloaded:
                stack.llm.refusal = serving.Overloaded("the queue is full", retry_after_s=2.5)
            case _:
                stack.llm.refusal = kind("it went wrong", metadata={"limit": 3})
        with pytest.raises(InternVLError) as caught:
            await client.chat("hi").result()
        assert type(caught.value) is CLASS_OF[kind]
        assert caught.value.reason == kind.reason
        assert not isinstance(caught.value, grpc.RpcError)
        if isinstance(caught.value, InvalidRequest):
            assert caught.value.field == "sampling.top_p"
            assert caught.value.message == "sampling.top_p: must be above 0 to 1, got 0"
        elif isinstance(caught.value, Overloaded):
            assert caught.value.retry_after_s == 2.5
        else:
            assert caught.value.metadata == {"limit": "3"}


@bounded
async def test_reasons_make_finer_classes() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        stack.llm.refusal = serving.ContextTooLong("open.messages", "9000 tokens", metadata={"limit": 8192})
        with pytest.raises(ContextTooLong) as too_long:
            await client.chat("hi").result()
        assert (too_long.value.field, too_long.value.metadata["limit"]) == ("messages", "8192")
        with pytest.raises(BadMedia) as bad:
            await client.chat("hi", images=[picture(1), b"no picture"]).result()
        assert bad.value.field == "messages[0].parts[1].image"
        with pytest.raises(BadMedia) as empty:
            await client.upload(b"")
        assert empty.value.field == "chunk"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": "hot"}, "sampling.temperature"),
        ({"top_k": -1}, "sampling.top_k"),
        ({"seed": 2**64}, "sampling.seed"),
        ({"stop": [7]}, "sampling.stop"),
        ({"stop": "END"}, "sampling.stop"),
        ({"stop_token_ids": b"12"}, "sampling.stop_token_ids"),
        ({"system": "half a \ud83d"}, "messages[0].parts[0].text"),
    ],
)
@bounded
async def test_values_that_do_not_fit_the_type_are_named_like_those_out_of_range(
    options: dict[str, object], field: str
) -> None:
    async with AsyncClient("127.0.0.1:9") as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.chat("hi", **options).result()  # type: ignore[arg-type]
        assert caught.value.field == field


def test_client_imports_nothing_heavy() -> None:
    """Only what a plain install brings: gRPC, protobuf and our own contract."""
    program = """
import sys
before = set(sys.modules)
import internvl_client, internvl_client.command
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names))
"""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    # gRPC brings its own compiled helpers, and its health and reflection modules where they are installed.
    ours = {name for name in run.stdout.split() if not name.lstrip("_").startswith(("grpc", "cython"))}
    assert ours <= {"google", "internvl", "internvl_client", "typing_extensions"}
