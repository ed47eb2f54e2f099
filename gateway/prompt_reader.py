"""From the messages of a request to a prompt: checked, media in the store, joined to what was said before."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.caller import Caller
from gateway.concurrency import together
from gateway.content import IncomingMessage, InlineMedia, Media, Message, Part, Text
from gateway.prompt import Prompt
from gateway.storage.conversations import Conversation
from gateway.storage.media_store import MediaStore
from gateway.wire import RequestLimits, read_messages
from internvl.errors import InvalidField, NotFound
from internvl.v1 import content_pb2


class PromptReader:
    """Reads prompts within their limits."""

    def __init__(self, media: MediaStore, limits: RequestLimits) -> None:
        self._media = media
        self._limits = limits

    def check(self, messages: Sequence[content_pb2.Message], *, continues: bool) -> None:
        """Check what needs neither a store nor a tier; the arguments are those of `read_messages`.

        Raises:
            InvalidField: names the first field that cannot be used.
        """
        read_messages(messages, self._limits, continues=continues)

    async def read(
        self, messages: Sequence[content_pb2.Message], conversation: Conversation | None, caller: Caller
    ) -> Prompt:
        """Check what was said, put its media into the store, and join it to the conversation.

        Raises:
            InvalidField: names the first field that cannot be used.
            NotFound: media that this caller has not stored.
        """
        incoming = read_messages(messages, self._limits, continues=conversation is not None)
        history = conversation.messages if conversation is not None else ()
        self._check_visuals(history, incoming)
        stored = await together(
            self._store_media(message, f"messages[{number}]", caller.tenant)
            for number, message in enumerate(incoming)
        )
        return Prompt(history, tuple(stored))

    def _check_visuals(self, history: Sequence[Message], incoming: Sequence[IncomingMessage]) -> None:
        messages: list[Message | IncomingMessage] = [*history, *incoming]
        count = sum(not isinstance(part, Text) for message in messages for part in message.parts)
        limit = self._limits.max_visuals
        if count > limit:
            raise InvalidField(
                "messages",
                f"at most {limit} pictures and films in a prompt, got {count}",
                metadata={"limit": limit, "got": count},
            )

    async def _store_media(self, message: IncomingMessage, field: str, tenant: str) -> Message:
        parts = [
            await self._store_part(part, f"{field}.parts[{position}]", tenant)
            for position, part in enumerate(message.parts)
        ]
        return Message(message.role, tuple(parts))

    async def _store_part(self, part: Part | InlineMedia, field: str, tenant: str) -> Part:
        match part:
            case InlineMedia(data, options):
                media = Media("", options)
                return Media(await self._media.put(data, f"{field}.{media.kind}", tenant), options)
            case Media(media_id, _) if not await self._media.visible(tenant, media_id):
                raise NotFound(f"{field}.{part.kind}.source.media_id: no media of this id is stored")
            case _:
                return part
