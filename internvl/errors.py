"""The one error tree, and the one table that maps it to gRPC status.

ServingError
├── InvalidField          a field of the request is wrong              INVALID_ARGUMENT
│   ├── ContextTooLong    the prompt does not fit the model            INVALID_ARGUMENT
│   └── BadMedia          an image or video that cannot be used        INVALID_ARGUMENT
├── NotFound              a named thing does not exist                 NOT_FOUND
├── AlreadyExists         a name is taken                              ALREADY_EXISTS
├── Conflict              somebody else changed it first               ABORTED
├── FailedPrecondition    right request, wrong state                   FAILED_PRECONDITION
├── Overloaded            a queue is full; retry after a delay         RESOURCE_EXHAUSTED
├── Unavailable           a peer or a store is down                    UNAVAILABLE
├── Cancelled             somebody ended it                            CANCELLED
├── DeadlineExceeded      time ran out                                 DEADLINE_EXCEEDED
├── Unauthenticated       no or unknown credentials                    UNAUTHENTICATED
├── PermissionDenied      known, but not allowed                       PERMISSION_DENIED
├── Unsupported           a field or call this server does not offer   UNIMPLEMENTED
└── InternalError         our fault; details stay in the log           INTERNAL

CheckpointError and ConfigError are for operators: they end a start-up, never a request.
Messages name the field and the limit. They never hold paths, addresses or user content.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc


class ServingError(Exception):
    """Base of everything a request can fail with.

    Attributes:
        message: one sentence for the caller.
        reason: stable upper-case identifier, sent as `google.rpc.ErrorInfo.reason`.
        metadata: small machine-readable facts (limits, counts), sent as `ErrorInfo.metadata`.
    """

    reason = "SERVING_ERROR"

    def __init__(self, message: str, *, metadata: Mapping[str, str | int | float] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}


class InvalidField(ServingError):
    """A request field holds a value that cannot be used.

    Attributes:
        field: path of the field in the request message, for example `sampling.temperature`.
    """

    reason = "INVALID_FIELD"

    def __init__(
        self, field: str, problem: str, *, metadata: Mapping[str, str | int | float] | None = None
    ) -> None:
        super().__init__(f"{field}: {problem}", metadata=metadata)
        self.field = field
        self.problem = problem


class ContextTooLong(InvalidField):
    """The prompt leaves no room in the model's context."""

    reason = "CONTEXT_TOO_LONG"


class BadMedia(InvalidField):
    """An image or video that cannot be decoded or is over a limit."""

    reason = "BAD_MEDIA"


class NotFound(ServingError):
    reason = "NOT_FOUND"


class AlreadyExists(ServingError):
    reason = "ALREADY_EXISTS"


class Conflict(ServingError):
    reason = "CONFLICT"


class FailedPrecondition(ServingError):
    reason = "FAILED_PRECONDITION"


class Overloaded(ServingError):
    """A bounded queue is full.

    Attributes:
        retry_after_s: seconds to wait before the next attempt, sent as `RetryInfo`.
    """

    reason = "OVERLOADED"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        metadata: Mapping[str, str | int | float] | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.retry_after_s = retry_after_s


class Unavailable(ServingError):
    reason = "UNAVAILABLE"


class Cancelled(ServingError):
    reason = "CANCELLED"


class DeadlineExceeded(ServingError):
    reason = "DEADLINE_EXCEEDED"


class Unauthenticated(ServingError):
    reason = "UNAUTHENTICATED"


class PermissionDenied(ServingError):
    reason = "PERMISSION_DENIED"


class Unsupported(ServingError):
    reason = "UNSUPPORTED"


class InternalError(ServingError):
    reason = "INTERNAL"


STATUS_OF: Mapping[type[ServingError], grpc.StatusCode] = {
    InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Conflict: grpc.StatusCode.ABORTED,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Cancelled: grpc.StatusCode.CANCELLED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    InternalError: grpc.StatusCode.INTERNAL,
}


def status_code(error: ServingError) -> grpc.StatusCode:
    """The gRPC status of an error: that of the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind]
    return grpc.StatusCode.INTERNAL


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message lists every tensor at fault."""


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the key or flag."""
