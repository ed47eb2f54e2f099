"""Errors as HTTP: the one table of statuses, and the body that clients of OpenAI's API expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import grpc

from internvl.errors import (
    ContextTooLong,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Overloaded,
    ServingError,
    Unavailable,
    status_code,
)

# As google.rpc maps its codes, but for UNIMPLEMENTED, which here means a field or call that is not offered.
_STATUS_OF: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_UNAVAILABLE_RETRY_S = 1.0


class UnsupportedField(InvalidField):
    """A field of OpenAI's API that this server does not offer."""

    reason = "UNSUPPORTED_PARAMETER"


class UnknownField(InvalidField):
    """A field that nobody offers: most likely a typing error."""

    reason = "UNKNOWN_PARAMETER"


class UnknownModel(NotFound):
    """Another model than the one served here."""

    reason = "MODEL_NOT_FOUND"


class NoRoute(NotFound):
    """A path that this server does not have."""

    reason = "UNKNOWN_URL"


class WrongMethod(ServingError):
    """A path that this server has, but not for this method."""

    reason = "METHOD_NOT_ALLOWED"


class NotJson(ServingError):
    """A body of another kind than JSON."""

    reason = "UNSUPPORTED_MEDIA_TYPE"


class BodyTooLarge(ServingError):
    """A body over the limit."""

    reason = "BODY_TOO_LARGE"


class BodyTooSlow(DeadlineExceeded):
    """A body that did not arrive in time."""

    reason = "BODY_TOO_SLOW"


_OWN_STATUS: Mapping[type[ServingError], int] = {
    WrongMethod: 405,
    NotJson: 415,
    BodyTooLarge: 413,
    BodyTooSlow: 408,
}


def http_status(error: ServingError) -> int:
    """The HTTP status of an error."""
    return _OWN_STATUS.get(type(error)) or _STATUS_OF.get(status_code(error), 500)


def error_body(error: ServingError) -> dict[str, Any]:
    """The error as OpenAI's API words it: `{"error": {"message", "type", "param", "code"}}`."""
    status = http_status(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.field if isinstance(error, InvalidField) else None,
            "code": _code(error),
        }
    }


def error_headers(error: ServingError) -> dict[str, str]:
    """What a client needs besides the body: how to log in, or when to try again."""
    headers = {}
    status = http_status(error)
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="internvl"'
    if status in (429, 503):
        wait_s = error.retry_after_s if isinstance(error, Overloaded) else _UNAVAILABLE_RETRY_S
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
        headers["retry-after-ms"] = str(max(1, round(wait_s * 1000)))
    if status in (408, 413):
        # What is left of the body will not be read.
        headers["connection"] = "close"
    if isinstance(error, Unavailable):
        headers["x-should-retry"] = "true"
    return headers


def _code(error: ServingError) -> str:
    if isinstance(error, ContextTooLong):
        return "context_length_exceeded"  # what clients of OpenAI's API look for
    return error.reason.lower()
