"""Public messages into the gateway's own values and back, with every check that needs no other tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.content import (
    ImageOptions,
    IncomingMessage,
    InlineMedia,
    Layout,
    Media,
    MediaOptions,
    Message,
    Part,
    Role,
    Text,
    VideoOptions,
)
from internvl.errors import InvalidField
from internvl.v1 import content_pb2

_ROLES = {
    content_pb2.ROLE_SYSTEM: Role.SYSTEM,
    content_pb2.ROLE_USER: Role.USER,
    content_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_ROLE_NUMBERS = {role: number for number, role in _ROLES.items()}


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How much one request may hold.

    Attributes:
        max_messages: messages of one request.
        max_parts: parts of one message.
        max_text_bytes: text of one request, in UTF-8.
        max_visuals: pictures and films of one prompt, those of earlier turns included.
    """

    max_messages: int = 512
    max_parts: int = 128
    max_text_bytes: int = 2**20
    max_visuals: int = 32


def read_messages(
    messages: Sequence[content_pb2.Message], limits: RequestLimits, *, continues: bool
) -> tuple[IncomingMessage, ...]:
    """Check and translate the messages of a turn.

    Args:
        messages: as they arrived.
        limits: how much is taken.
        continues: whether they continue a stored conversation, which got its system text when it was created.

    Raises:
        InvalidField: names the first field that cannot be used.
    """
    if not messages:
        raise InvalidField("messages", "at least one message is required")
    _check_at_most("messages", len(messages), limits.max_messages, "messages")
    found = tuple(
        _read_message(message, f"messages[{index}]", limits) for index, message in enumerate(messages)
    )
    for index, message in enumerate(found):
        if message.role is Role.SYSTEM and continues:
            raise InvalidField(
                f"messages[{index}].role",
                "a conversation takes its system text when it is created, not later",
            )
        if message.role is Role.SYSTEM and index:
            raise InvalidField(f"messages[{index}].role", "only the first message may be a system message")
    if found[-1].role is not Role.USER:
        raise InvalidField(f"messages[{len(found) - 1}].role", "the last message must be the user's")
    _check_text(found, limits)
    return found


def _read_message(message: content_pb2.Message, field: str, limits: RequestLimits) -> IncomingMessage:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidField(f"{field}.role", "must be system, user or assistant")
    if not message.parts:
        raise InvalidField(f"{field}.parts", "at least one part is required")
    _check_at_most(f"{field}.parts", len(message.parts), limits.max_parts, "parts")
    parts = tuple(_read_part(part, f"{field}.parts[{index}]") for index, part in enumerate(message.parts))
    for index, part in enumerate(parts):
        if role is not Role.USER and not isinstance(part, Text):
            raise InvalidField(f"{field}.parts[{index}]", "only user messages may hold pictures and films")
    return IncomingMessage(role, parts)


def _read_part(part: content_pb2.Part, field: str) -> Part | InlineMedia:
    match part.WhichOneof("content"):
        case "text":
            return Text(part.text)
        case "image":
            return _read_media(part.image.source, image_options(part.image.options), f"{field}.image")
        case "video":
            return _read_media(part.video.source, video_options(part.video.options), f"{field}.video")
        case _:
            raise InvalidField(f"{field}.content", "must be text, an image or a video")


def _read_media(source: content_pb2.MediaSource, options: MediaOptions, field: str) -> Media | InlineMedia:
    match source.WhichOneof("source"):
        case "data":
            return InlineMedia(source.data, options)
        case "media_id":
            return Media(source.media_id, options)
        case _:
            raise InvalidField(f"{field}.source", "must be data or media_id")


def _check_text(messages: Sequence[IncomingMessage], limits: RequestLimits) -> None:
    texts = (part.text for message in messages for part in message.parts if isinstance(part, Text))
    size = sum(len(text.encode()) for text in texts)
    _check_at_most("messages", size, limits.max_text_bytes, "bytes of text")


def _check_at_most(field: str, count: int, limit: int, what: str) -> None:
    if count > limit:
        raise InvalidField(
            field, f"at most {limit} {what}, got {count}", metadata={"limit": limit, "got": count}
        )


def image_options(options: content_pb2.ImageOptions) -> ImageOptions:
    """Options of a picture; what is unset becomes None."""
    return ImageOptions(
        min_tiles=options.min_tiles if options.HasField("min_tiles") else None,
        max_tiles=options.max_tiles if options.HasField("max_tiles") else None,
        thumbnail=options.thumbnail if options.HasField("thumbnail") else None,
        detail=options.detail,
    )


def video_options(options: content_pb2.VideoOptions) -> VideoOptions:
    """Options of a film; what is unset becomes None."""
    return VideoOptions(
        frames=options.frames if options.HasField("frames") else None,
        tiles_per_frame=options.tiles_per_frame if options.HasField("tiles_per_frame") else None,
        start_s=options.start_s if options.HasField("start_s") else None,
        end_s=options.end_s if options.HasField("end_s") else None,
    )


def image_options_to_proto(options: ImageOptions) -> content_pb2.ImageOptions:
    """Options of a picture; what is None stays unset."""
    return content_pb2.ImageOptions(
        min_tiles=options.min_tiles,
        max_tiles=options.max_tiles,
        thumbnail=options.thumbnail,
        detail=options.detail,
    )


def video_options_to_proto(options: VideoOptions) -> content_pb2.VideoOptions:
    """Options of a film; what is None stays unset."""
    return content_pb2.VideoOptions(
        frames=options.frames,
        tiles_per_frame=options.tiles_per_frame,
        start_s=options.start_s,
        end_s=options.end_s,
    )


def message_to_proto(message: Message) -> content_pb2.Message:
    """A stored message in public form."""
    return content_pb2.Message(role=_ROLE_NUMBERS[message.role], parts=map(_part_to_proto, message.parts))


def message_from_proto(message: content_pb2.Message) -> Message:
    """A message that `message_to_proto` wrote."""
    parts = (_read_part(part, "parts") for part in message.parts)
    return Message(_ROLES[message.role], tuple(part for part in parts if not isinstance(part, InlineMedia)))


def _part_to_proto(part: Part) -> content_pb2.Part:
    if isinstance(part, Text):
        return content_pb2.Part(text=part.text)
    source = content_pb2.MediaSource(media_id=part.media_id)
    if isinstance(part.options, ImageOptions):
        options = image_options_to_proto(part.options)
        return content_pb2.Part(image=content_pb2.Image(source=source, options=options))
    return content_pb2.Part(
        video=content_pb2.Video(source=source, options=video_options_to_proto(part.options))
    )


def role_number(role: Role) -> content_pb2.Role.ValueType:
    """The role in the contract."""
    return _ROLE_NUMBERS[role]


def layout_from_proto(layout: content_pb2.VisualLayout) -> Layout:
    """A layout, kept in its encoded form beside the little that the gateway reads of it."""
    return Layout(layout.visual_id, layout.tiles, encoded=layout.SerializeToString())


def layout_to_proto(layout: Layout) -> content_pb2.VisualLayout:
    """The layout as the vision tier sent it."""
    return content_pb2.VisualLayout.FromString(layout.encoded)


def plan_layout(layout: Layout) -> content_pb2.VisualLayout:
    """The layout as a plan shows it: without `visual_id`, which names content that was not encoded."""
    planned = layout_to_proto(layout)
    planned.ClearField("visual_id")
    return planned
