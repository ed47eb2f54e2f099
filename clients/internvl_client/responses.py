"""From the messages of the contract to the client's own values."""

from __future__ import annotations

from internvl.v1 import chat_service_pb2, content_pb2
from internvl_client.channel import ServerInfo
from internvl_client.content import Image, Media, MediaInfo, Message, Part, Role, Video

ROLE_NUMBERS: dict[Role, content_pb2.Role.ValueType] = {
    "system": content_pb2.ROLE_SYSTEM,
    "user": content_pb2.ROLE_USER,
    "assistant": content_pb2.ROLE_ASSISTANT,
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
