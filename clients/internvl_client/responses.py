"""From the messages of the contract to the client's own values."""

from __future__ import annotations

from collections.abc import Iterable

from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2
from internvl_client.answer import (
    Delta,
    FinishReason,
    Grid,
    Layout,
    Plan,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from internvl_client.channel import ServerInfo
from internvl_client.content import Image, Media, MediaInfo, Message, Part, Role, Video

ROLE_NUMBERS: dict[Role, content_pb2.Role.ValueType] = {
    "system": content_pb2.ROLE_SYSTEM,
    "user": content_pb2.ROLE_USER,
    "assistant": content_pb2.ROLE_ASSISTANT,
}
_FINISH_REASONS: dict[int, FinishReason] = {
    llm_service_pb2.FINISH_REASON_STOP: "stop",
    llm_service_pb2.FINISH_REASON_LENGTH: "length",
}
_ROLE_NAMES = {number: name for name, number in ROLE_NUMBERS.items()}


def read_media(response: chat_service_pb2.UploadMediaResponse) -> Media:
    """What an upload became."""
    info = response.info
    return Media(
        response.media_id,
        MediaInfo(
            size_bytes=response.size_bytes,
            kind="video" if info.kind == content_pb2.MEDIA_KIND_VIDEO else "image",
            media_type=info.media_type,
            width=info.width,
            height=info.height,
            frame_count=info.frame_count,
            duration_s=info.duration_s,
        ),
    )


def read_server_info(response: chat_service_pb2.ServerInfoResponse) -> ServerInfo:
    """The model behind a server."""
    return ServerInfo(
        model_name=response.llm.model_name,
        context_limit=response.llm.context_limit,
        tile_size=response.vision.tile_size,
        tokens_per_tile=response.vision.tokens_per_tile,
        default_max_tiles=response.vision.default_max_tiles,
        max_media_bytes=response.vision.max_media_bytes,
    )


def read_message(message: content_pb2.Message) -> Message:
    """A stored message. Its media is named by id."""
    return Message(_ROLE_NAMES[message.role], tuple(_read_part(part) for part in message.parts))


def _read_part(part: content_pb2.Part) -> Part:
    match part.WhichOneof("content"):
        case "image":
            options = part.image.options
            return Image(
                Media(part.image.source.media_id),
                min_tiles=options.min_tiles if options.HasField("min_tiles") else None,
                max_tiles=options.max_tiles if options.HasField("max_tiles") else None,
                thumbnail=options.thumbnail if options.HasField("thumbnail") else None,
            )
        case "video":
            choices = part.video.options
            return Video(
                Media(part.video.source.media_id),
                frames=choices.frames if choices.HasField("frames") else None,
                tiles_per_frame=choices.tiles_per_frame if choices.HasField("tiles_per_frame") else None,
                start_s=choices.start_s if choices.HasField("start_s") else None,
                end_s=choices.end_s if choices.HasField("end_s") else None,
            )
        case _:
            return part.text


def read_plan(plan: chat_service_pb2.PlanTurnResponse) -> Plan:
    """A plan in the client's own form."""
    return Plan(
        layouts=_read_layouts(plan.layouts),
        visual_tokens=plan.visual_tokens,
        prompt_tokens=plan.prompt_tokens,
        context_limit=plan.context_limit,
        fits=plan.fits,
        cached_tokens=plan.cached_tokens,
        tiles=plan.tiles,
        tiles_to_encode=plan.tiles_to_encode,
        kv_bytes=plan.kv_bytes,
        kv_budget_bytes=plan.kv_budget_bytes,
        expected_wait_ms=plan.expected_wait_ms,
    )


def read_started(started: chat_service_pb2.ChatStarted) -> Started:
    """How a turn began."""
    layouts = _read_layouts(started.layouts)
    return Started(started.request_id, started.prompt_tokens, started.cached_tokens, layouts)


def _read_layouts(layouts: Iterable[content_pb2.VisualLayout]) -> tuple[Layout, ...]:
    return tuple(
        Layout(
            kind="video" if layout.kind == content_pb2.MEDIA_KIND_VIDEO else "image",
            grids=tuple(Grid(grid.columns, grid.rows, grid.thumbnail) for grid in layout.grids),
            tiles=layout.tiles,
            visual_tokens=layout.tiles * layout.tokens_per_tile,
        )
        for layout in layouts
    )


def read_usage(usage: llm_service_pb2.Usage) -> Usage:
    """What was counted."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        visual_tokens=usage.visual_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
    )


def read_timings(result: chat_service_pb2.ChatResult) -> Timings:
    """How long an answer took."""
    timings = result.timings
    return Timings(
        first_token_ms=result.time_to_first_token_ms,
        queue_ms=timings.queue_ms,
        prefill_ms=timings.prefill_ms,
        decode_ms=timings.decode_ms,
        tile_wait_ms=timings.tile_wait_ms,
    )


def read_delta(delta: llm_service_pb2.TokenDelta) -> Delta:
    """More of an answer."""
    logprobs = tuple(_read_logprob(logprob) for logprob in delta.logprobs)
    return Delta(delta.text, tuple(delta.token_ids), delta.choice, logprobs)


def read_finish_reason(reason: llm_service_pb2.FinishReason.ValueType) -> FinishReason:
    """Why an answer ended."""
    return _FINISH_REASONS.get(reason, "other")


def _read_logprob(logprob: llm_service_pb2.TokenLogprob) -> TokenLogprob:
    top = tuple(_read_logprob(other) for other in logprob.top)
    return TokenLogprob(logprob.token_id, logprob.logprob, logprob.token, top)
