"""The tokenizer's vocabulary as the grammar library sees it: the bytes that each token adds to an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from llguidance import LLTokenizer
from llguidance import TokenizerWrapper as Wrapper

from llm_service.text.pieces import Piece, PieceKind

_BYTES = 256


class HasPieces(Protocol):
    """What is needed of a tokenizer."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What each token id adds to decoded text."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Two tables of bytes: for the first token of an answer, whose word mark is dropped, and for all others.

    Behind the tokenizer's ids stand one token for every byte, so that any text can be taken, and the one for
    the end of the answer. Control tokens have no bytes, so no grammar allows them.

    Attributes:
        size: token ids of the tokenizer.
        end_id: stands for the end of the answer.
        first: the table for the first token.
        rest: the table for all others.
        silent_ids: tokens that add nothing as the first one.
    """

    size: int
    end_id: int
    first: LLTokenizer
    rest: LLTokenizer
    silent_ids: tuple[int, ...]
    _pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, tokenizer: HasPieces) -> Vocabulary:
        """The vocabulary of a tokenizer; takes a tenth of a second for 32,000 pieces."""
        pieces = tokenizer.pieces
        return cls(
            size=len(pieces),
            end_id=len(pieces) + _BYTES,
            first=_table(_first_bytes(piece) for piece in pieces),
            rest=_table(piece.own_bytes for piece in pieces),
            silent_ids=tuple(
                token_id
                for token_id, piece in enumerate(pieces)
                if piece.kind is PieceKind.TEXT and not piece.first_text
            ),
            _pieces=pieces,
        )

    def spelled(self, token_id: int) -> list[int]:
        """The first token of an answer as tokens of `rest`, byte by byte."""
        return [self.size + byte for byte in _first_bytes(self._pieces[token_id])]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The shape in which the library takes a vocabulary."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    bos_token_id: int | None = None

    def __call__(self, text: Any) -> list[int]:
        """The library would only ask to force a tokenization of text, and our grammars force none."""
        raise NotImplementedError


def _table(pieces: Iterable[bytes]) -> LLTokenizer:
    tokens = [*pieces, *(bytes((byte,)) for byte in range(_BYTES))]
    end_id = len(tokens)
    return LLTokenizer(Wrapper(_Tokens([*tokens, b"<end>"], [end_id], end_id)))


def _first_bytes(piece: Piece) -> bytes:
    return piece.first_text.encode() if piece.kind is PieceKind.TEXT else piece.own_bytes
