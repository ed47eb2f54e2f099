"""Why a turn has no result, as a message of its own."""

from __future__ import annotations

from internvl.errors import InvalidField, Overloaded, ServingError, status_code
from internvl.v1 import chat_service_pb2


def failure_to_proto(error: ServingError) -> chat_service_pb2.Failure:
    """What the status of a call of its own would say."""
    failure = chat_service_pb2.Failure(
        code=status_code(error).value[0],
        message=error.message,
        reason=error.reason,
        field=error.field if isinstance(error, InvalidField) else None,
        metadata=error.metadata,
    )
    if isinstance(error, Overloaded):
        failure.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
    return failure
