"""The events of a turn in public form."""

from __future__ import annotations

from gateway.answer import (
    Answer,
    ChoiceEnd,
    Delta,
    Event,
    FinishReason,
    Progress,
    Started,
    Timings,
    Usage,
)
from gateway.wire import layout_to_proto
from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2

_FINISH_REASONS = {
    FinishReason.STOP: llm_service_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: llm_service_pb2.FINISH_REASON_LENGTH,
}


def event_to_proto(event: Event, turn_id: str) -> chat_service_pb2.ChatResponse:
    """One event of a turn under way."""
    match event:
        case Started():
            started = chat_service_pb2.ChatStarted(
                request_id=event.request_id,
                turn_id=turn_id,
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
            return chat_service_pb2.ChatResponse(delta=event.message)


def result_to_proto(answer: Answer, version: int | None) -> chat_service_pb2.ChatResponse:
    """The last event: the answer and, within a conversation, its new version."""
    message = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(text=answer.text)])
    result = chat_service_pb2.ChatResult(
        message=message,
        finish_reason=_FINISH_REASONS[answer.outcome.finish_reason],
        usage=usage_to_proto(answer.outcome.usage),
        timings=_timings(answer.outcome.timings),
        time_to_first_token_ms=answer.first_text_s * 1000,
        conversation_version=version,
        choices=map(_choice_end, answer.outcome.choices),
        replay_bundle=answer.outcome.replay_bundle,
    )
    return chat_service_pb2.ChatResponse(result=result)


def _choice_end(end: ChoiceEnd) -> llm_service_pb2.ChoiceResult:
    return llm_service_pb2.ChoiceResult(
        finish_reason=_FINISH_REASONS[end.finish_reason],
        stop_match=end.stop_match,
        completion_tokens=end.completion_tokens,
    )


def usage_to_proto(usage: Usage) -> llm_service_pb2.Usage:
    """What was counted."""
    return llm_service_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        visual_tokens=usage.visual_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _timings(timings: Timings) -> llm_service_pb2.Timings:
    return llm_service_pb2.Timings(
        queue_ms=timings.queue_ms,
        prefill_ms=timings.prefill_ms,
        decode_ms=timings.decode_ms,
        tile_wait_ms=timings.tile_wait_ms,
    )
