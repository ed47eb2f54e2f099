"""From what a caller says to the messages of the contract. No input or output but the reading of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2
from internvl_client.content import (
    Image,
    Media,
    MediaSource,
    Message,
    Part,
    Video,
    open_source,
    question,
    size_of,
    system,
)
from internvl_client.errors import InvalidRequest
from internvl_client.options import ChatOptions, sampling_params
from internvl_client.responses import ROLE_NUMBERS

# Files travel inside a message up to this size in all; beyond it they are uploaded first.
MAX_INLINE_BYTES = 2 * 2**20
CHUNK_BYTES = 2**20


class InlineBudget:
    """How many bytes of files one message may still take along; the questions of a batch share it."""

    def __init__(self) -> None:
        self._left_bytes = MAX_INLINE_BYTES

    def take(self, size_bytes: int) -> bool:
        """Whether a file of this size may travel inside; if so, it is counted."""
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        return True


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A file that must be uploaded before the request is sent.

    Attributes:
        file: open at its beginning.
        target: the part of the request that waits for the id.
    """

    file: BinaryIO
    target: content_pb2.MediaSource

    def done(self, media: Media) -> None:
        """Put the id in its place."""
        self.target.media_id = media.media_id


class TurnDraft:
    """A question on its way to the server. Upload its `uploads`, send its request, then close it.

    Attributes:
        uploads: files that are too large to travel inside the message.
        timeout: seconds for the whole call; None for the client's own.
    """

    def __init__(
        self,
        text: str | None,
        options: ChatOptions,
        conversation_id: str | None = None,
        inline: InlineBudget | None = None,
    ) -> None:
        """Read the files of the question.

        Args:
            text: the question.
            options: what was said with it.
            conversation_id: of the conversation that it belongs to.
            inline: of the message that it travels in; None for one of its own.

        Raises:
            OSError: a file cannot be read.
            TypeError: a part or a source of another type.
            InvalidRequest: a sampling value that its type cannot hold, or text that is not Unicode.
        """
        self.uploads: list[PendingUpload] = []
        self.timeout = options.get("timeout")
        self._options = options
        self._sampling = sampling_params(options)
        self._conversation_id = conversation_id
        self._messages: list[content_pb2.Message] = []
        self._inline = inline or InlineBudget()
        self._files = ExitStack()
        try:
            for message in _messages(text, options):
                self._add(message)
        except BaseException:
            self.close()
            raise

    def chat_request(self) -> chat_service_pb2.ChatRequest:
        """The request of a turn whose uploads are done."""
        return chat_service_pb2.ChatRequest(
            messages=self._messages,
            conversation_id=self._conversation_id,
            sampling=self._sampling,
            prompt=self._prompt_options(),
            request_id=self._options.get("request_id"),
            priority=self._options.get("priority"),
            want_replay_bundle=self._options.get("replay_bundle", False),
            resumable=self._options.get("resumable", False),
            tile_budget=self._options.get("tile_budget"),
            idempotency_key=self._options.get("idempotency_key"),
            expected_version=self._options.get("expected_version"),
        )

    def plan_request(self) -> chat_service_pb2.PlanTurnRequest:
        """The request of a plan whose uploads are done."""
        return chat_service_pb2.PlanTurnRequest(
            messages=self._messages,
            conversation_id=self._conversation_id,
            prompt=self._prompt_options(),
            tile_budget=self._options.get("tile_budget"),
            max_tokens=self._options.get("max_tokens"),
        )

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _prompt_options(self) -> llm_service_pb2.PromptOptions:
        return llm_service_pb2.PromptOptions(visuals_first=self._options.get("visuals_first"))

    def _add(self, message: Message) -> None:
        added = content_pb2.Message(role=ROLE_NUMBERS[message.role])
        field = f"messages[{len(self._messages)}]"
        self._messages.append(added)
        for number, part in enumerate(message.parts):
            self._add_part(added.parts.add(), part, f"{field}.parts[{number}]")

    def _add_part(self, added: content_pb2.Part, part: Part, field: str) -> None:
        match part:
            case str():
                _set_text(added, part, f"{field}.text")
            case Image():
                added.image.options.CopyFrom(_image_options(part))
                self._add_source(added.image.source, part.source)
            case Video():
                added.video.options.CopyFrom(_video_options(part))
                self._add_source(added.video.source, part.source)
            case _:
                raise TypeError(f"expected text, Image or Video, got {type(part).__name__}")

    def _add_source(self, target: content_pb2.MediaSource, source: MediaSource) -> None:
        if isinstance(source, Media):
            target.media_id = source.media_id
            return
        file = self._files.enter_context(open_source(source))
        if self._inline.take(size_of(file)):
            target.data = file.read()
        else:
            self.uploads.append(PendingUpload(file, target))


def _set_text(part: content_pb2.Part, text: str, field: str) -> None:
    """Raises InvalidRequest for half characters, which Python makes of bytes that are no text."""
    try:
        part.text = text
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{field}: is not Unicode text", reason="INVALID_FIELD", field=field) from error


def _messages(text: str | None, options: ChatOptions) -> list[Message]:
    """The messages of a turn: a single question, or a whole conversation."""
    messages = options.get("messages")
    if text is not None and messages is None:
        instructions = options.get("system")
        opening = [] if instructions is None else [system(instructions)]
        for name in ("images", "videos"):
            if isinstance(options.get(name), (str, bytes)):
                raise TypeError(f"{name}= takes a list, even for one file")
        return [*opening, question(text, options.get("images", ()), options.get("videos", ()))]
    if text is not None or messages is None:
        raise TypeError("give either a question or messages=")
    for name in ("images", "videos", "system"):
        if options.get(name):
            raise TypeError(f"{name}= goes with a question; put it into messages=")
    return list(messages)


def upload_chunks(file: BinaryIO) -> Iterator[chat_service_pb2.UploadMediaRequest]:
    """The messages of an upload."""
    while chunk := file.read(CHUNK_BYTES):
        yield chat_service_pb2.UploadMediaRequest(chunk=chunk)


def _image_options(image: Image) -> content_pb2.ImageOptions:
    return content_pb2.ImageOptions(
        min_tiles=image.min_tiles, max_tiles=image.max_tiles, thumbnail=image.thumbnail
    )


def _video_options(video: Video) -> content_pb2.VideoOptions:
    return content_pb2.VideoOptions(
        frames=video.frames,
        tiles_per_frame=video.tiles_per_frame,
        start_s=video.start_s,
        end_s=video.end_s,
    )
