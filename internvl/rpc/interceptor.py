"""What happens around every call: errors become status, and the outcome is logged and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status.rpc_status import to_status
from prometheus_client import Counter, Histogram

from internvl.errors import InternalError, ServingError, status_code
from internvl.rpc.request_stream import UNREADABLE, RequestStream, readable
from internvl.rpc.status import status_from_error
from internvl.telemetry import get_logger

CALLS = Counter("internvl_grpc_calls", "Finished calls by method and status.", ["method", "code"])
CALL_SECONDS = Histogram(
    "internvl_grpc_call_seconds",
    "Duration of calls in seconds, first byte to status.",
    ["method"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)

Handler = Any  # grpc.RpcMethodHandler; its generics differ between grpc and its stubs
Context = grpc.aio.ServicerContext[Any, Any]

Guard = Callable[[Mapping[str, str]], AbstractAsyncContextManager[None]]
"""Lets a call with this metadata in for as long as its block runs, or raises `ServingError`."""

_log = get_logger("rpc")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of our own services; health and reflection pass through."""

    def __init__(self, guard: Guard | None = None) -> None:
        """`guard` lets calls in; None lets all in."""
        self._guard = guard or _let_in
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/internvl."):
            return handler
        if method not in self._wrapped:
            self._wrapped[method] = _wrap(handler, method, self._guard)
        return self._wrapped[method]


def _wrap(handler: Handler, method: str, guard: Guard) -> Handler:
    options = {
        "request_deserializer": _lenient(handler.request_deserializer),
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(_single(handler.unary_unary, method, guard), **options)
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(_single(handler.stream_unary, method, guard), **options)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(
            _streaming(handler.unary_stream, method, guard), **options
        )
    return grpc.stream_stream_rpc_method_handler(_streaming(handler.stream_stream, method, guard), **options)


def _single(
    behaviour: Callable[..., Awaitable[Any]], method: str, guard: Guard
) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        request = _drainable(request)
        async with _observed(context, method, request), guard(_metadata(context)):
            return await behaviour(readable(request), context)

    return call


def _streaming(behaviour: Callable[..., Any], method: str, guard: Guard) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        request = _drainable(request)
        async with (
            _observed(context, method, request),
            guard(_metadata(context)),
            aclosing(behaviour(readable(request), context)) as responses,
        ):
            async for response in responses:
                yield response

    return call


def _let_in(metadata: Mapping[str, str]) -> AbstractAsyncContextManager[None]:
    return nullcontext()


def _metadata(context: Context) -> dict[str, str]:
    """The metadata of a call that is text."""
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Bytes that are no message become `UNREADABLE`: what grpc makes of an exception here is UNKNOWN, with
    names of our classes."""
    if deserialize is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return UNREADABLE

    return attempt


def _drainable(request: Any) -> Any:
    return RequestStream(request) if isinstance(request, AsyncIterable) else request


@asynccontextmanager
async def _observed(context: Context, method: str, request: Any) -> AsyncIterator[None]:
    started = time.monotonic()
    code = grpc.StatusCode.OK
    try:
        yield
    except ServingError as error:
        code = status_code(error)
        _log.info("call refused", method=method, code=code.name, reason=error.reason)
        if isinstance(request, RequestStream):
            await request.drain()
        await context.abort_with_status(to_status(status_from_error(error)))
    except (asyncio.CancelledError, GeneratorExit):
        code = grpc.StatusCode.CANCELLED
        raise
    except Exception as error:
        if _peer_is_gone(error):
            code = grpc.StatusCode.CANCELLED
            raise asyncio.CancelledError from error
        code = grpc.StatusCode.INTERNAL
        _log.error("call failed", method=method, exc_info=True)
        status = status_from_error(InternalError("the server failed; its log has the details"))
        await context.abort_with_status(to_status(status))
    finally:
        CALLS.labels(method, code.name).inc()
        CALL_SECONDS.labels(method).observe(time.monotonic() - started)


def _peer_is_gone(error: Exception) -> bool:
    """Whether a write failed because the client went away.

    A handler blocked in a write when its call is cancelled gets this private exception of grpc's core, not
    CancelledError.
    """
    return type(error).__name__ == "ExecuteBatchError"
