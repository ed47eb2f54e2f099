"""The prompt of one turn: which pictures it holds, and what each part is called in the public request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from gateway.content import Media, Message, Role
from internvl.errors import InternalError, InvalidField, NotFound

_LLM_MESSAGE = re.compile(r"messages\[(\d+)\]")
_VISION_OPTION = re.compile(r"(?:open|items\[0\])\.(?:image|video)\.(.+)")


@dataclass(frozen=True, slots=True)
class Visual:
    """A picture or film of a prompt.

    Attributes:
        index: its number within the prompt, from 0.
        media: what it is.
        field: path of its part in the public request.
    """

    index: int
    media: Media
    field: str

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Name this part of the public request in errors of the vision tier and of the media store."""
        try:
            yield
        except InvalidField as error:
            raise _renamed(error, self._public_field(error.field)) from error
        except NotFound as error:
            raise NotFound(f"{self.field}: {error.message}") from error

    def _public_field(self, field: str) -> str:
        """`open.image.max_tiles` of an encode, or `items[0].image.max_tiles` of a plan, is an option of this
        part; everything else is about the file."""
        option = _VISION_OPTION.fullmatch(field)
        return f"{self.field}.options.{option[1]}" if option else self.field


@dataclass(frozen=True, slots=True)
class Prompt:
    """All messages that the model reads in one turn.

    Attributes:
        history: messages of earlier turns, from the conversation store.
        messages: messages of the request.
    """

    history: tuple[Message, ...]
    messages: tuple[Message, ...]

    @property
    def visuals(self) -> tuple[Visual, ...]:
        """All pictures and films, in order."""
        found = [
            (part, f"{self._field(number)}.parts[{position}].{part.kind}")
            for number, message in enumerate((*self.history, *self.messages))
            for position, part in enumerate(message.parts)
            if isinstance(part, Media)
        ]
        return tuple(Visual(index, media, field) for index, (media, field) in enumerate(found))

    def affinity(self, cache_salt: str) -> bytes:
        """Equal for prompts whose keys and values may be shared: by salt, system text and the first question,
        or the pictures and films in it, which go before its text and cost more than all else."""
        messages = (*self.history, *self.messages)
        opening = messages[: 2 if messages[0].role is Role.SYSTEM else 1]
        shown = tuple(part for part in opening[-1].parts if isinstance(part, Media))
        return sha256(repr((cache_salt, opening[:-1], shown or opening[-1])).encode()).digest()

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Name fields of the public request in errors of the language tier."""
        try:
            yield
        except InvalidField as error:
            raise _renamed(error, self._public_field(error.field)) from error

    def _public_field(self, field: str) -> str:
        """`open.sampling.top_p` is `sampling.top_p`; messages count from the first that the client sent."""
        if field == "tile" or field.startswith("tile."):
            raise InternalError("the language service refused a tile of the vision service")
        public = _LLM_MESSAGE.sub(lambda match: self._field(int(match[1])), field.removeprefix("open."))
        return public.removesuffix(".visual")

    def _field(self, number: int) -> str:
        earlier = len(self.history)
        return f"conversation.messages[{number}]" if number < earlier else f"messages[{number - earlier}]"


def _renamed(error: InvalidField, field: str) -> InvalidField:
    renamed = type(error)(field, error.problem, metadata=error.metadata)
    renamed.reason = error.reason
    return renamed
