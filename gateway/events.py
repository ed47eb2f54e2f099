"""The events of a turn in public form."""

from __future__ import annotations

from gateway.turn import Answer, Delta, Event, Progress, Started
from gateway.wire import layout_to_proto
from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2


def event_to_proto(event: Event) -> chat_service_pb2.ChatResponse:
    """One event of a turn under way."""
    match event:
        case Started():
            started = chat_service_pb2.ChatStarted(
                request_id=event.request_id,
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
                layouts=map(layout_to_proto, event.layouts),
            )
            return chat_service_pb2.ChatResponse(started=started)
        case Progress():
            progress = chat_service_pb2.EncodingProgress(
                visual_index=event.visual_index, tiles_done=event.tiles_done, tiles_total=event.tiles_total
            )
            return chat_service_pb2.ChatResponse(encoding=progress)
        case Delta():
            delta = llm_service_pb2.TokenDelta(text=event.text, token_ids=event.token_ids)
            return chat_service_pb2.ChatResponse(delta=delta)


def result_to_proto(answer: Answer, version: int | None) -> chat_service_pb2.ChatResponse:
    """The last event: the answer and, within a conversation, its new version."""
    message = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(text=answer.text)])
    result = chat_service_pb2.ChatResult(
        message=message,
        finish_reason=answer.result.finish_reason,
        usage=answer.result.usage,
        timings=answer.result.timings,
        time_to_first_token_ms=answer.first_text_s * 1000,
        conversation_version=version,
    )
    return chat_service_pb2.ChatResponse(result=result)
