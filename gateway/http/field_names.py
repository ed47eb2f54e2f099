"""What a client of this door calls the fields of the request that its own became."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from internvl.errors import InvalidField

_IN_MESSAGE = re.compile(r"(?:conversation\.)?messages\[(\d+)\](?:\.parts\[(\d+)\])?(.*)", re.DOTALL)
_MEDIA_TAIL = re.compile(r"\.(?:image|video)(?:\.source)?(?:\.options)?\b")


@dataclass(frozen=True, slots=True)
class MessageNames:
    """Names of one message.

    Attributes:
        message: of the message, for example `messages[2]`.
        parts: of each of its parts, for example `messages[2].content[0].image_url`.
    """

    message: str
    parts: Sequence[str]

    def name_of(self, member: str) -> str:
        """What the client calls what is behind the message's own path, such as `.role`."""
        if not self.parts:
            return self.message
        if member != ".parts":
            return self.message + member
        # A message that is one text, as in `input` of a response, has no content beside itself.
        return self.message if self.message in self.parts else f"{self.message}.content"


@dataclass(frozen=True, slots=True)
class FieldNames:
    """From the paths of `ChatRequest` to those of the client's JSON.

    Attributes:
        fields: of single fields, by their path.
        messages: of the messages, in order.
        members: of what is inside a picture or film, by its name in the contract.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    messages: Sequence[MessageNames] = ()
    members: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Put the client's own name into errors about a field."""
        try:
            yield
        except InvalidField as error:
            name = self.name_of(error.field)
            if name == error.field:
                raise
            renamed = type(error)(name, error.problem, metadata=error.metadata)
            renamed.reason = error.reason
            raise renamed from error

    def name_of(self, path: str) -> str:
        """The client's name for a path; the path itself where there is none."""
        if path in self.fields:
            return self.fields[path]
        match = _IN_MESSAGE.fullmatch(path)
        if match is None or int(match[1]) >= len(self.messages):
            return path
        names = self.messages[int(match[1])]
        if match[2] is None or int(match[2]) >= len(names.parts):
            return names.name_of(match[3])
        tail = _MEDIA_TAIL.sub("", match[3], count=1)
        head, dot, member = tail.rpartition(".")
        return names.parts[int(match[2])] + head + dot + self.members.get(member, member)
