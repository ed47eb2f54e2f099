"""Messages to the pieces of one prompt, in order: plain text, control tokens and pictures. No ids yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from llm_service.text.content import ChatMessage, ImagePart, Role, TextPart, VideoPart
from llm_service.text.template import ChatTemplate

# As the reference's examples have them: a picture is numbered in its conversation, a frame in its film.
_IMAGE_LABEL = "Image-{}: "
_FRAME_LABEL = "Frame{}: "


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How messages are laid out. The default is that of the reference's examples.

    Attributes:
        visuals_first: put the pictures and films of a turn before its text, whatever their order; else keep
            it.
    """

    visuals_first: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """A control token, by its text."""

    content: str


@dataclass(frozen=True, slots=True)
class Picture:
    """An image or a frame of a film.

    Attributes:
        visual_id: whose embeddings.
        item: number of the image or film in the conversation, from 0.
        frame: number of the frame in the film, from 0; None for an image.
        first_tile: number of its first tile within the tiles of `visual_id`.
        tiles: how many tiles.
    """

    visual_id: str
    item: int
    frame: int | None
    first_tile: int
    tiles: int


LayoutPiece: TypeAlias = str | Mark | Picture


def lay_out(
    messages: Sequence[ChatMessage], options: PromptOptions, template: ChatTemplate
) -> Iterator[LayoutPiece]:
    """The whole prompt of a checked conversation, up to where the answer begins.

    A conversation without a system message gets the template's own system text.
    """
    if messages[0].role != Role.SYSTEM:
        messages = [ChatMessage(Role.SYSTEM, (TextPart(template.default_system_text),)), *messages]
    layout = _Layout(options)
    for message in messages:
        content = list(layout.content(message))
        yield from (Mark(template.roles[message.role]), "\n", *content)
        if content or message.role == Role.SYSTEM:  # an empty assistant turn stays open
            yield Mark(template.end)
    yield from (Mark(template.roles[Role.ASSISTANT]), "\n")


class _Layout:
    """Numbers pictures through the turns of one conversation."""

    def __init__(self, options: PromptOptions) -> None:
        self._options = options
        self._items = 0
        self._images = 0

    def content(self, message: ChatMessage) -> Iterator[LayoutPiece]:
        """One turn. Texts that come to stand side by side are joined by a newline; nothing else is added."""
        parts = [part for part in message.parts if part != TextPart("")]
        if self._options.visuals_first:
            parts.sort(key=lambda part: isinstance(part, TextPart))
        labelled = sum(isinstance(part, ImagePart) for part in parts) > 1
        after_text = False
        for part in parts:
            if isinstance(part, TextPart):
                yield "\n" + part.text if after_text else part.text
            else:
                yield from self._image(part, labelled) if isinstance(part, ImagePart) else self._video(part)
                self._items += 1
            after_text = isinstance(part, TextPart)

    def _image(self, part: ImagePart, labelled: bool) -> Iterator[LayoutPiece]:
        self._images += 1
        if labelled:
            yield _IMAGE_LABEL.format(self._images)
        yield Picture(part.visual_id, self._items, None, 0, part.tiles)
        yield "\n"

    def _video(self, part: VideoPart) -> Iterator[LayoutPiece]:
        first_tiles = accumulate(part.frames, initial=0)
        for frame, (first_tile, tiles) in enumerate(zip(first_tiles, part.frames, strict=False)):
            yield _FRAME_LABEL.format(frame + 1)
            yield Picture(part.visual_id, self._items, frame, first_tile, tiles)
            yield "\n"
