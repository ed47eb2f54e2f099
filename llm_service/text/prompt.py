"""Messages to one prompt: token ids, and where the visual embeddings go.

The ids equal those of the reference's chat(), which builds one string and tokenizes it, whenever no text
holds a look-alike of a control token. Where one does, chat() would obey it; here it stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig
from llm_service.text.content import ChatMessage
from llm_service.text.layout import LayoutPiece, Mark, Picture, PromptOptions, lay_out
from llm_service.text.message_rules import check_messages
from llm_service.text.template import ChatTemplate, template_of
from llm_service.text.tokenizer import Control, Segment, Tokenizer


@dataclass(frozen=True, slots=True)
class VisualSlot:
    """A place in the prompt that takes embeddings instead of its token ids.

    Attributes:
        start: index of its first position in `Prompt.token_ids`.
        length: positions: tiles of the picture times the visual tokens of a tile.
        picture: whose embeddings, and which of its tiles.
    """

    start: int
    length: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the decoder reads. `visual_slots` are in order and do not overlap."""

    token_ids: tuple[int, ...]
    visual_slots: tuple[VisualSlot, ...]


def build_prompt(
    messages: Sequence[ChatMessage], options: PromptOptions, tokenizer: Tokenizer, config: InternVLConfig
) -> Prompt:
    """Lay out a conversation and tokenize it.

    Args:
        messages: the turns so far; the last is the user's.
        options: how to lay them out.
        tokenizer: one that `check_tokenizer` has passed.
        config: the model, for its template and the visual tokens of a tile.

    Raises:
        InvalidField: a message that cannot be used; the field is a path such as `messages[2].role`.
        ConfigError: `check_tokenizer` would have refused the tokenizer.
    """
    check_messages(messages)
    template = template_of(config)
    pieces = list(lay_out(messages, options, template))
    segments = _segments(pieces, template, tokenizer, config.tokens_per_tile)
    token_ids = tuple(tokenizer.encode_segments(segments))
    context_id = _control_id(tokenizer, template.image_context)
    pictures = [piece for piece in pieces if isinstance(piece, Picture)]
    return Prompt(token_ids, tuple(_slots(pictures, token_ids, context_id, config.tokens_per_tile)))


def _segments(
    pieces: Sequence[LayoutPiece], template: ChatTemplate, tokenizer: Tokenizer, tokens_per_tile: int
) -> Iterator[Segment]:
    def control(content: str, count: int = 1) -> Control:
        return Control(_control_id(tokenizer, content), count)

    for piece in pieces:
        match piece:
            case Mark():
                yield control(piece.content)
            case Picture():
                yield control(template.image_start)
                yield control(template.image_context, piece.tiles * tokens_per_tile)
                yield control(template.image_end)
            case str():
                yield piece


def _slots(
    pictures: Sequence[Picture], token_ids: tuple[int, ...], context_id: int, tokens_per_tile: int
) -> Iterator[VisualSlot]:
    """The runs of the context id: text never encodes to it, and the end of a picture follows each run."""
    end = 0
    for picture in pictures:
        start = token_ids.index(context_id, end)
        end = start + picture.tiles * tokens_per_tile
        yield VisualSlot(start, end - start, picture)


def _control_id(tokenizer: Tokenizer, content: str) -> int:
    token_id = tokenizer.control_id(content)
    if token_id is None:
        raise ConfigError(f"tokenizer_config.json: added_tokens_decoder: no token {content}")
    return token_id
