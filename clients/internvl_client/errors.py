"""The one error tree of the client, and the one table that maps gRPC status to it.

InternVLError
├── InvalidRequest        a field of the request is wrong            INVALID_ARGUMENT, OUT_OF_RANGE
│   ├── ContextTooLong    the prompt does not fit the model
│   └── BadMedia          a picture or film that cannot be used
├── NotFound              a conversation or media id is unknown      NOT_FOUND
├── AlreadyExists         a name is taken                            ALREADY_EXISTS
├── Conflict              another turn was stored meanwhile          ABORTED
├── FailedPrecondition    right request, wrong state                 FAILED_PRECONDITION
├── Overloaded            a queue is full; retry after a delay       RESOURCE_EXHAUSTED
├── Unavailable           no server, or one of its tiers is down     UNAVAILABLE
├── TimedOut              the call took longer than its timeout      DEADLINE_EXCEEDED
├── Cancelled             somebody cancelled the call                CANCELLED
├── Unauthenticated       no or unknown credentials                  UNAUTHENTICATED
├── PermissionDenied      known, but not allowed                     PERMISSION_DENIED
├── Unsupported           this server does not offer it              UNIMPLEMENTED
└── ServerError           the server failed                          INTERNAL, UNKNOWN, DATA_LOSS
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class InternVLError(Exception):
    """Base of everything a call can fail with.

    Attributes:
        message: one sentence.
        reason: stable upper-case identifier from the server; empty if it gave none.
        field: path of the request's field at fault, for example `sampling.top_p`; empty if there is none.
        retry_after_s: seconds to wait before the next attempt; None if the server said nothing.
        metadata: small machine-readable facts, such as limits and counts.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = dict(metadata or {})


class InvalidRequest(InternVLError):
    """A field of the request holds a value that cannot be used; `field` names it."""


class ContextTooLong(InvalidRequest):
    """The prompt leaves no room in the model's context."""


class BadMedia(InvalidRequest):
    """A picture or film that cannot be decoded or is over a limit."""


class NotFound(InternVLError):
    """A conversation or media id is unknown."""


class AlreadyExists(InternVLError):
    """A name is taken."""


class Conflict(InternVLError):
    """Another turn of the conversation was stored meanwhile."""


class FailedPrecondition(InternVLError):
    """The right request, but in a state that does not allow it."""


class Overloaded(InternVLError):
    """A queue is full; `retry_after_s` tells when to try again."""


class Unavailable(InternVLError):
    """There is no server at the address, or one of its tiers is down."""


class TimedOut(InternVLError):
    """The call took longer than its timeout."""


class Cancelled(InternVLError):
    """Somebody cancelled the call."""


class Unauthenticated(InternVLError):
    """No or unknown credentials."""


class PermissionDenied(InternVLError):
    """Known, but not allowed."""


class Unsupported(InternVLError):
    """This server does not offer the call or the field."""


class ServerError(InternVLError):
    """The server failed; its log has the details."""


ERROR_OF_STATUS: Mapping[grpc.StatusCode, type[InternVLError]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ServerError,
}

_ERROR_OF_REASON: Mapping[str, type[InvalidRequest]] = {
    "CONTEXT_TOO_LONG": ContextTooLong,
    "BAD_MEDIA": BadMedia,
}


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn every `grpc.RpcError` of the block into an error of the tree."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def error_from_rpc(rpc_error: grpc.RpcError) -> InternVLError:
    """The error of the tree for a failed call, with what the server's typed details say."""
    code: grpc.StatusCode = rpc_error.code()
    kind = ERROR_OF_STATUS.get(code, ServerError)
    status = _read_status(rpc_error)
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    _unpack(status, info)
    return kind_of_reason(kind, info.reason)(
        rpc_error.details() or code.name,
        reason=info.reason,
        field=request.field_violations[0].field if _unpack(status, request) else "",
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if _unpack(status, retry) else None,
        metadata=dict(info.metadata),
    )


def kind_of_reason(kind: type[InternVLError], reason: str) -> type[InternVLError]:
    """The class of an error; a reason may name it more exactly than its status does."""
    return _ERROR_OF_REASON.get(reason, kind) if kind is InvalidRequest else kind


def _read_status(rpc_error: grpc.RpcError) -> status_pb2.Status:
    """The rich status of a finished call; empty if it has none that can be read."""
    trailers = cast(Iterable[tuple[str, bytes]], rpc_error.trailing_metadata() or ())
    for key, value in trailers:
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _unpack(status: status_pb2.Status, into: Message) -> bool:
    return any(detail.Unpack(into) for detail in status.details)
