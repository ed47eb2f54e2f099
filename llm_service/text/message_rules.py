"""What a conversation must look like before it becomes a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from internvl.errors import InvalidField
from llm_service.text.content import ChatMessage, ImagePart, Part, Role, TextPart, VideoPart


def check_messages(messages: Sequence[ChatMessage]) -> None:
    """Check a whole conversation.

    Turns of user and assistant alternate, as they do in every conversation that the model has seen; a system
    message may come first.

    Raises:
        InvalidField: naming the message or part at fault.
    """
    if not messages:
        raise InvalidField("messages", "must hold at least one message")
    for index, message in enumerate(messages):
        _check_role(index, message.role)
        _check_parts(index, message)
    _check_order([message.role for message in messages])


def _check_role(index: int, role: str) -> None:
    if role not in set(Role):
        raise InvalidField(f"messages[{index}].role", f"must be one of {', '.join(Role)}")
    if role == Role.SYSTEM and index > 0:
        raise InvalidField(f"messages[{index}].role", "a system message must be the first")


def _check_order(roles: Sequence[str]) -> None:
    turns = list(enumerate(roles))[roles[0] == Role.SYSTEM :]
    if not turns:
        raise InvalidField("messages", "must hold a user message")
    if turns[0][1] != Role.USER:
        raise InvalidField(f"messages[{turns[0][0]}].role", "the first turn must be the user's")
    for (_, before), (index, role) in pairwise(turns):
        if role == before:
            raise InvalidField(f"messages[{index}].role", "user and assistant must take turns")
    if turns[-1][1] != Role.USER:
        raise InvalidField(f"messages[{turns[-1][0]}].role", "the last message must be the user's")


def _check_parts(index: int, message: ChatMessage) -> None:
    for number, part in enumerate(message.parts):
        field = f"messages[{index}].parts[{number}]"
        if isinstance(part, TextPart):
            _check_text(f"{field}.text", part.text)
        elif message.role != Role.USER:
            raise InvalidField(f"{field}.visual", "pictures and films are only allowed in user messages")
        else:
            _check_tiles(f"{field}.visual", part)
    if message.role == Role.USER and all(part == TextPart("") for part in message.parts):
        raise InvalidField(f"messages[{index}].parts", "must hold a text, a picture or a film")


def _check_text(field: str, text: str) -> None:
    """Half of a surrogate pair is no character: it has no UTF-8 form, so no token ids either."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidField(field, f"lone surrogate at character {error.start}") from None


def _check_tiles(field: str, part: ImagePart | VideoPart) -> None:
    if isinstance(part, VideoPart) and not part.frames:
        raise InvalidField(field, "a film must have at least one frame")
    if min(_tiles(part)) < 1:
        raise InvalidField(field, "every picture and frame must have at least one tile")


def _tiles(part: Part) -> tuple[int, ...]:
    """Tiles of each picture or frame of a part."""
    match part:
        case ImagePart():
            return (part.tiles,)
        case VideoPart():
            return part.frames
        case TextPart():
            return ()
