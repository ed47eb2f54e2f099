"""Token ids to text, one at a time.

What `push` and `flush` return adds up to what the reference gives when it decodes the whole list with special
tokens skipped. Its rules: ordinary pieces are decoded run by run, the first piece of a run loses its word
mark, and runs and the texts of added tokens are joined by a space. Each push costs the same, however long the
answer.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from enum import Enum, auto

from llm_service.text.pieces import SKIPPED, Piece, PieceKind
from llm_service.text.tokenizer import Tokenizer

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class _Run(Enum):
    """The run of ordinary pieces at hand."""

    CLOSED = auto()
    EMPTY = auto()
    """Pieces have come, but no text yet."""
    OPEN = auto()


class Detokenizer:
    """Decodes one answer. Not safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._bytes = _ByteRun()
        self._run = _Run.CLOSED
        self._joins = False  # whether an earlier run or added token has to be set off by a space

    def push(self, token_id: int) -> str:
        """The text that became certain with this token. Bytes of an incomplete character are held back.

        An id beyond the vocabulary (padding of the embedding table) decodes to nothing.
        """
        piece = self._pieces[token_id] if token_id < len(self._pieces) else SKIPPED
        match piece.kind:
            case PieceKind.TEXT if self._run is _Run.OPEN and not self._bytes.pending:  # nearly always
                return piece.text
            case PieceKind.TEXT:
                return self._bytes.close() + self._push_text(piece)
            case PieceKind.BYTE:
                return self._open_run() + self._push_byte(piece)
            case PieceKind.ADDED:
                return self._bytes.close() + self._push_added(piece)
            case PieceKind.SKIPPED:
                return ""

    def flush(self) -> str:
        """The rest, once no more tokens come: a replacement character for each byte held back."""
        return self._bytes.close()

    def _push_added(self, piece: Piece) -> str:
        space = " " if (self._joins and self._run is _Run.CLOSED) or self._run is _Run.OPEN else ""
        self._joins = True
        self._run = _Run.CLOSED
        return space + piece.text

    def _push_byte(self, piece: Piece) -> str:
        self._run = _Run.OPEN
        return self._bytes.push(piece.byte)

    def _push_text(self, piece: Piece) -> str:
        text = piece.first_text if self._run is _Run.CLOSED else piece.text
        space = self._open_run()
        if text:
            self._run = _Run.OPEN
        return space + text

    def _open_run(self) -> str:
        """Begin a run if none is open; what sets it off from the text before."""
        if self._run is not _Run.CLOSED:
            return ""
        self._run = _Run.EMPTY
        return " " if self._joins else ""


def decode(tokenizer: Tokenizer, token_ids: Iterable[int]) -> str:
    """Text of a whole list of token ids, special tokens skipped."""
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.push, token_ids), detokenizer.flush()])


class _ByteRun:
    """Bytes of successive byte pieces, as UTF-8; each byte that cannot be decoded becomes one U+FFFD.

    Attributes:
        pending: whether a byte has come since it was closed.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self.pending = False

    def push(self, byte: int) -> str:
        self.pending = True
        return self._readable(self._decoder.decode(bytes((byte,))))

    def close(self) -> str:
        if not self.pending:
            return ""
        self.pending = False
        return self._readable(self._decoder.decode(b"", final=True))

    @staticmethod
    def _readable(text: str) -> str:
        return _ESCAPED_BYTE.sub("\N{REPLACEMENT CHARACTER}", text)
