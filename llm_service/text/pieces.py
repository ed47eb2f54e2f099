"""What each token id adds to decoded text: the table a detokenizer walks, one entry an id."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum, auto

from sentencepiece import SentencePieceProcessor

from llm_service.text.tokenizer_files import AddedToken

WORD_MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece's visible stand-in for a space


class PieceKind(Enum):
    """How a token takes part in decoding with special tokens skipped."""

    SKIPPED = auto()
    """A special token, or an id that no token has."""
    TEXT = auto()
    """An ordinary piece."""
    BYTE = auto()
    """One byte of a character that has no piece of its own."""
    ADDED = auto()
    """An added token that is not special: its text shows, set off by spaces."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token's share of the text.

    Attributes:
        kind: how it is decoded.
        text: what TEXT and ADDED show.
        first_text: what TEXT shows as the first of a run of ordinary pieces, where its word mark is dropped.
        byte: the value of a BYTE, else 0.
    """

    kind: PieceKind
    text: str = ""
    first_text: str = ""
    byte: int = 0

    @property
    def own_bytes(self) -> bytes:
        """What the token stands for alone, in UTF-8; nothing for an added token, whether it shows or not."""
        if self.kind is PieceKind.BYTE:
            return bytes((self.byte,))
        return self.text.encode() if self.kind is PieceKind.TEXT else b""


SKIPPED = Piece(PieceKind.SKIPPED)


def piece_table(
    model: SentencePieceProcessor, added: Mapping[int, AddedToken], special: Set[str]
) -> tuple[Piece, ...]:
    """One piece an id, from 0 to the largest id of the model and the added tokens."""
    size = max(model.get_piece_size(), 1 + max(added))
    contents = {token.content for token in added.values()}
    return tuple(_piece(token_id, model, added, contents, special) for token_id in range(size))


def _piece(
    token_id: int,
    model: SentencePieceProcessor,
    added: Mapping[int, AddedToken],
    contents: Set[str],
    special: Set[str],
) -> Piece:
    if token_id in added:
        text = added[token_id].content
    elif token_id < model.get_piece_size():
        text = model.id_to_piece(token_id)
    else:
        return SKIPPED  # a gap between the model and the added tokens
    # The reference tells these kinds apart by text, not by id.
    if text in special:
        return SKIPPED
    if text in contents:
        return Piece(PieceKind.ADDED, text)
    if model.is_byte(token_id):
        return Piece(PieceKind.BYTE, byte=int(text[1:-1], 16))
    # Without its mark a piece may be none of the model's; the model shows such a text as it is.
    first = model.decode([text.removeprefix(WORD_MARK)]) if text.startswith(WORD_MARK) else None
    whole = model.decode([token_id])
    return Piece(PieceKind.TEXT, whole, whole if first is None else first)
