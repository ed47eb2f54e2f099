"""Errors on the wire: gRPC status with typed details, there and back."""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from internvl.errors import (
    STATUS_OF,
    BadMedia,
    ContextTooLong,
    InternalError,
    InvalidField,
    Overloaded,
    ServingError,
    Unavailable,
    status_code,
)

DOMAIN = "internvl.v1"

_DETAILS_KEY = "grpc-status-details-bin"

_CLASS_OF = {code: kind for kind, code in STATUS_OF.items()}
_FIELD_ERRORS = {kind.reason: kind for kind in (ContextTooLong, BadMedia)}


def status_from_error(error: ServingError) -> status_pb2.Status:
    """Put an error into `google.rpc.Status`, with ErrorInfo, and BadRequest or RetryInfo where they apply."""
    details: list[any_pb2.Any] = []
    _pack(details, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if isinstance(error, InvalidField):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.problem)
        _pack(details, error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        _pack(details, error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=status_code(error).value[0], message=error.message, details=details)


def error_from_rpc(rpc_error: grpc.RpcError, peer: str) -> ServingError:
    """Turn a failed call into the error its server raised.

    Args:
        rpc_error: what a call raised, `grpc.aio.AioRpcError` or its synchronous twin.
        peer: what to call the other side in messages, for example `vision service`. Never an address.

    Returns:
        The matching class of the tree with field, delay and metadata restored. A status without our details
        comes from the transport: it keeps its class but gets a generic text, because transport messages name
        addresses.
    """
    call = cast(grpc.Call, rpc_error)
    code = call.code()
    kind = _CLASS_OF.get(code, InternalError)
    status = _read_status(call)
    info = error_details_pb2.ErrorInfo()
    if status is None or not _unpack(status, info) or info.domain != DOMAIN:
        return _from_transport(kind, code, peer)
    return _restore(kind, status, info)


def _restore(
    kind: type[ServingError], status: status_pb2.Status, info: error_details_pb2.ErrorInfo
) -> ServingError:
    metadata = dict(info.metadata)
    bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    error: ServingError
    if kind is InvalidField and _unpack(status, bad_request) and bad_request.field_violations:
        violation = bad_request.field_violations[0]
        subclass = _FIELD_ERRORS.get(info.reason, InvalidField)
        error = subclass(violation.field, violation.description, metadata=metadata)
    elif kind is Overloaded:
        _unpack(status, retry)
        error = Overloaded(
            status.message, retry_after_s=retry.retry_delay.ToMilliseconds() / 1000, metadata=metadata
        )
    elif kind is InvalidField:
        error = ServingError(status.message, metadata=metadata)
    else:
        error = kind(status.message, metadata=metadata)
    error.reason = info.reason
    return error


def _from_transport(kind: type[ServingError], code: grpc.StatusCode, peer: str) -> ServingError:
    if kind is Unavailable:
        return Unavailable(f"the {peer} cannot be reached")
    if kind is Overloaded:
        return Overloaded(f"the {peer} refused the message size or the load", retry_after_s=1.0)
    if kind is InvalidField:
        return InternalError(f"the {peer} refused a call as invalid")
    return kind(f"a call to the {peer} failed with {code.name}")


def _read_status(call: grpc.Call) -> status_pb2.Status | None:
    """The rich status of a finished call; None if it has none that can be read."""
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _pack(details: list[any_pb2.Any], message: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(message)
    details.append(packed)


def _unpack(status: status_pb2.Status, into: Message) -> bool:
    return any(detail.Unpack(into) for detail in status.details)
