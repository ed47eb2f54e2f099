"""Messages of this API, checked and taken apart, and put together as messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.http.errors import UnsupportedField
from gateway.http.field_names import MessageNames
from gateway.http.json_object import JsonObject
from gateway.http.media import BroughtMedia
from gateway.wire import RequestLimits
from internvl.errors import InvalidField
from internvl.v1 import content_pb2

_ROLES: Mapping[str, content_pb2.Role.ValueType] = {
    "system": content_pb2.ROLE_SYSTEM,
    "developer": content_pb2.ROLE_SYSTEM,
    "user": content_pb2.ROLE_USER,
    "assistant": content_pb2.ROLE_ASSISTANT,
}
_OTHER_ROLES = ("tool", "function")

# What the options of the contract are called here.
MEMBER_NAMES: Mapping[str, str] = {"max_tiles": "max_dynamic_patch", "min_tiles": "min_dynamic_patch"}
# Tiles, as lmdeploy reads these words.
_DETAILS = {"low": 6, "medium": 12, "high": 24}

_TEXT_TYPES = ("text", "input_text", "output_text")
_OTHER_TYPES = ("input_audio", "audio", "file", "input_file", "refusal")
_NOT_OFFERED = "is not offered by this server"


@dataclass(frozen=True, slots=True)
class ReadPart:
    """A text, or a picture or film on its way into the store.

    Attributes:
        name: what the client calls it.
        text: the text; of media, empty.
        media: the file.
        options: how to look at the file.
    """

    name: str
    text: str = ""
    media: BroughtMedia | None = None
    options: content_pb2.ImageOptions | content_pb2.VideoOptions | None = None

    def to_proto(self) -> content_pb2.Part:
        """The part of the contract; media must have been stored."""
        if self.media is None:
            return content_pb2.Part(text=self.text)
        source = content_pb2.MediaSource(media_id=self.media.media_id)
        if isinstance(self.options, content_pb2.VideoOptions):
            return content_pb2.Part(video=content_pb2.Video(source=source, options=self.options))
        return content_pb2.Part(image=content_pb2.Image(source=source, options=self.options))


@dataclass(frozen=True, slots=True)
class ReadMessage:
    """One message; `name` is what the client calls it."""

    name: str
    role: content_pb2.Role.ValueType
    parts: Sequence[ReadPart]

    def to_proto(self) -> content_pb2.Message:
        """The message of the contract; its media must have been stored."""
        return content_pb2.Message(role=self.role, parts=[part.to_proto() for part in self.parts])

    def names(self) -> MessageNames:
        """Its own name and those of its parts."""
        return MessageNames(self.name, [part.name for part in self.parts])


@dataclass(slots=True)
class ReadMessages:
    """Messages of a request, in turns that alternate."""

    messages: list[ReadMessage] = field(default_factory=list)

    @property
    def media(self) -> list[BroughtMedia]:
        """All pictures and films, in order."""
        parts = (part for message in self.messages for part in message.parts)
        return [part.media for part in parts if part.media is not None]

    def add(self, message: ReadMessage) -> None:
        """Append a message; one that follows another of its role goes on in that one, on a new line.

        The model was trained on turns that alternate, while clients send, say, two user messages in a row.
        """
        if self.messages and self.messages[-1].role == message.role:
            last = self.messages.pop()
            between = ReadPart(message.name, text="\n")
            message = ReadMessage(last.name, last.role, (*last.parts, between, *message.parts))
        self.messages.append(message)

    def take_system(self) -> ReadMessage | None:
        """Take the system message out, if the first one is."""
        if self.messages and self.messages[0].role == content_pb2.ROLE_SYSTEM:
            return self.messages.pop(0)
        return None


def read_messages(values: Sequence[Any], path: str, limits: RequestLimits) -> ReadMessages:
    """Check and take apart the messages of a request.

    Args:
        values: what the JSON holds.
        path: what the client calls them.
        limits: how much is taken.

    Raises:
        InvalidField: names the first field that cannot be used.
    """
    read = ReadMessages()
    for number, value in enumerate(values):
        read.add(_read_message(JsonObject(value, f"{path}[{number}]"), limits))
    media = read.media
    if len(media) > limits.max_visuals:
        raise InvalidField(
            media[limits.max_visuals].field,
            f"at most {limits.max_visuals} pictures and films in a prompt, got {len(media)}",
            metadata={"limit": limits.max_visuals, "got": len(media)},
        )
    return read


def _read_message(message: JsonObject, limits: RequestLimits) -> ReadMessage:
    role = _role(message)
    parts = _content(message, limits)
    message.ignore("name", "id", "status", "phase", "type")
    message.refuse(
        dict.fromkeys(("tool_calls", "tool_call_id", "function_call", "audio", "refusal"), _NOT_OFFERED)
    )
    message.done()
    return ReadMessage(message.path, role, parts)


def _role(message: JsonObject) -> content_pb2.Role.ValueType:
    name = message.required_text("role")
    if name in _OTHER_ROLES:
        raise UnsupportedField(message.name_of("role"), f"{name} messages are not offered by this server")
    if name not in _ROLES:
        raise InvalidField(message.name_of("role"), f"must be one of {', '.join(_ROLES)}")
    return _ROLES[name]


def _content(message: JsonObject, limits: RequestLimits) -> list[ReadPart]:
    path = message.name_of("content")
    content = message.take("content")
    if isinstance(content, str):
        return [ReadPart(path, content)]
    if not isinstance(content, list) or not content:
        raise InvalidField(path, "must be a string or a list of parts")
    if len(content) > limits.max_parts:
        raise InvalidField(path, f"at most {limits.max_parts} parts, got {len(content)}")
    return [_read_part(JsonObject(value, f"{path}[{number}]")) for number, value in enumerate(content)]


def _read_part(part: JsonObject) -> ReadPart:
    kind = part.required_text("type")
    if kind in _TEXT_TYPES:
        read = ReadPart(part.name_of("text"), part.required_text("text"))
        part.ignore("annotations", "logprobs", "prompt_cache_breakpoint")
    elif kind == "image_url":
        read = _image(_url_object(part, kind))
    elif kind == "input_image":
        read = _input_image(part)
    elif kind == "video_url":
        read = _video(_url_object(part, kind))
    elif kind in _OTHER_TYPES:
        raise UnsupportedField(part.name_of("type"), f"{kind} {_NOT_OFFERED}")
    else:
        raise InvalidField(part.name_of("type"), "must be text, image_url or video_url")
    part.done()
    return read


def _url_object(part: JsonObject, member: str) -> JsonObject:
    """The object around a URL; a bare URL will do."""
    value = part.take(member)
    if isinstance(value, str):
        value = {"url": value}
    return JsonObject(value, part.name_of(member))


def _image(image: JsonObject) -> ReadPart:
    media = BroughtMedia(image.required_text("url"), image.path)
    read = ReadPart(image.path, media=media, options=_image_options(image))
    image.done()
    return read


def _input_image(part: JsonObject) -> ReadPart:
    part.refuse({"file_id": f"{_NOT_OFFERED}; send image_url"})
    part.ignore("prompt_cache_breakpoint")
    name = part.name_of("image_url")
    media = BroughtMedia(part.required_text("image_url"), name)
    return ReadPart(name, media=media, options=_image_options(part))


def _image_options(image: JsonObject) -> content_pb2.ImageOptions:
    """How to tile a picture. A number of tiles says more than a word, and wins."""
    detail = image.one_of("detail", ("auto", *_DETAILS))
    most = image.integer("max_dynamic_patch")
    if most is None and detail is not None:
        most = _DETAILS.get(detail)
    return content_pb2.ImageOptions(max_tiles=most, min_tiles=image.integer("min_dynamic_patch"))


def _video(video: JsonObject) -> ReadPart:
    media = BroughtMedia(video.required_text("url"), video.path)
    options = content_pb2.VideoOptions(
        frames=video.integer("frames"),
        tiles_per_frame=video.integer("tiles_per_frame"),
        start_s=video.number("start_s"),
        end_s=video.number("end_s"),
    )
    video.done()
    return ReadPart(video.path, media=media, options=options)
