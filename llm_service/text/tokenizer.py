"""The tokenizer of the checkpoint: sentencepiece with the rules of the slow LlamaTokenizer, `legacy=False`.

Two ways in. `encode` reads template text, where the texts of added tokens become those tokens.
`encode_segments` takes control tokens by id and text that is never parsed, so nothing that a user types can
become a control token. Both give the same ids as the reference wherever the text holds no look-alike of an
added token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sentencepiece import SentencePieceProcessor

from internvl.errors import ConfigError
from llm_service.text.pieces import WORD_MARK, Piece, piece_table
from llm_service.text.tokenizer_files import (
    CONFIG_FILE,
    MODEL_FILE,
    AddedToken,
    TokenizerFiles,
    read_tokenizer_files,
)

# `normalizer_spec { add_dummy_prefix: false }` in protobuf's wire format. Protobuf merges a field that comes
# again, so appending it to a serialised model switches the model's own prefix off.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


@dataclass(frozen=True, slots=True)
class Control:
    """A run of one added token, given by id: `count` times `token_id`."""

    token_id: int
    count: int = 1


Segment: TypeAlias = str | Control


class Tokenizer:
    """Text to token ids. Immutable after loading, and safe to share between threads."""

    def __init__(self, files: TokenizerFiles) -> None:
        """Build from the files' contents.

        Raises:
            ConfigError: as `load`.
        """
        self._model = _load_model(files.model)
        self._files = files
        self._added = _with_special_tokens(files, self._model)
        _check_out_of_reach(self._added.values(), self._model)
        self._by_id = {token.token_id: token for token in self._added.values()}
        self._splitter = _splitter(self._added)
        self._special_ids = frozenset(self._added[text].token_id for text in files.special)
        self._word_mark_id = self._model.piece_to_id(WORD_MARK)
        self.pieces: tuple[Piece, ...] = piece_table(self._model, self._by_id, files.special)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Load `tokenizer.model` and `tokenizer_config.json` of a checkpoint folder.

        Raises:
            ConfigError: a file is missing or malformed, asks for rules we do not have, or contradicts
                another.
        """
        return cls(read_tokenizer_files(folder))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self.pieces)

    @property
    def eos_id(self) -> int:
        return self._added[self._files.eos].token_id

    def control_id(self, content: str) -> int | None:
        """Id of the added token with this text, or None."""
        token = self._added.get(content)
        return None if token is None else token.token_id

    def encode(self, text: str) -> list[int]:
        """Token ids of template text: texts of added tokens become those tokens. Never for users' text."""
        parts = self._splitter.split(text)
        return self.encode_segments(
            Control(self._added[part].token_id) if index % 2 else part for index, part in enumerate(parts)
        )

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids of control tokens and unparsed text, with bos in front if the checkpoint asks for it.

        Adjacent texts are encoded as one. White space next to a control token is dropped where that token's
        flags say so, exactly as the reference does when it parses the same string.
        """
        runs = self._stripped(_with_word_mark(_joined(segments)))
        token_ids: list[int] = []
        for run in runs:
            token_ids += [run.token_id] * run.count if isinstance(run, Control) else self._model.encode(run)
        if len(token_ids) > 1 and token_ids[0] == self._word_mark_id and token_ids[1] in self._special_ids:
            del token_ids[0]
        return [self._added[self._files.bos].token_id, *token_ids] if self._files.add_bos else token_ids

    def _stripped(self, runs: list[Segment]) -> list[Segment]:
        stripped = list(runs)
        for index, run in enumerate(runs):
            if not isinstance(run, Control):
                continue
            token = self._by_id[run.token_id]
            if token.rstrip and index + 1 < len(runs):
                stripped[index + 1] = _map_text(str.lstrip, stripped[index + 1])
            if token.lstrip and index > 0:
                stripped[index - 1] = _map_text(str.rstrip, stripped[index - 1])
        return stripped


def _load_model(serialised: bytes) -> SentencePieceProcessor:
    """The model with its own prefix off.

    The reference puts a marker before each text and cuts its tokens off again, lest sentencepiece drop a
    leading space. Only models that squeeze white space do that. No Llama model does; others are refused.
    """
    try:
        model = SentencePieceProcessor(model_proto=serialised + _NO_DUMMY_PREFIX)
    except (RuntimeError, ValueError):
        raise ConfigError(f"{MODEL_FILE}: not a sentencepiece model") from None
    if model.encode("  ") == model.encode(" "):
        raise ConfigError(f"{MODEL_FILE}: normalizer_spec.remove_extra_whitespaces: only false is supported")
    return model


def _with_special_tokens(files: TokenizerFiles, model: SentencePieceProcessor) -> Mapping[str, AddedToken]:
    """Added tokens by text, with the special tokens that only the model knows, as in the reference."""
    added = {token.content: token for token in files.added}
    for text in sorted(files.special - added.keys()):
        token_id = model.piece_to_id(text)
        if model.id_to_piece(token_id) != text:
            raise ConfigError(f"{CONFIG_FILE}: special token {text!r} has no id")
        added[text] = AddedToken(token_id=token_id, content=text)
    return added


def _check_out_of_reach(added: Iterable[AddedToken], model: SentencePieceProcessor) -> None:
    """No plain text may encode to a control token, so its id must not belong to an ordinary piece."""
    size = model.get_piece_size()
    for token in added:
        reachable = token.token_id < size and not (
            model.is_control(token.token_id) or model.is_unknown(token.token_id)
        )
        if reachable:
            raise ConfigError(
                f"{MODEL_FILE}: the added token {token.content!r} has the id of an ordinary piece "
                f"({token.token_id}); text typed by a user could turn into it"
            )


def _splitter(added: Mapping[str, AddedToken]) -> re.Pattern[str]:
    longest_first = sorted(added, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """Adjacent texts joined, empty ones dropped."""
    runs: list[Segment] = []
    for segment in segments:
        if isinstance(segment, str) and runs and isinstance(runs[-1], str):
            runs[-1] += segment
        elif segment != "":
            runs.append(segment)
    return runs


def _with_word_mark(runs: Sequence[Segment]) -> list[Segment]:
    """One word mark before the whole text and no other: a typed one is a space to this tokenizer."""
    if not runs:
        return []
    return _joined([WORD_MARK, *(_map_text(lambda text: text.replace(WORD_MARK, " "), run) for run in runs)])


def _map_text(change: Callable[[str], str], run: Segment) -> Segment:
    return change(run) if isinstance(run, str) else run
