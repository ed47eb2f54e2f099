"""The tokenizer files of a checkpoint folder, read and checked before anything is built from them.

The flags of the added tokens come from `added_tokens_decoder` of `tokenizer_config.json`, as in the
reference: where that key exists, transformers ignores `added_tokens.json` and `special_tokens_map.json`. The
former is still compared, because a checkpoint whose files disagree about ids has been put together wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl.errors import ConfigError

CONFIG_FILE = "tokenizer_config.json"
MODEL_FILE = "tokenizer.model"
ADDED_FILE = "added_tokens.json"

# Settings with which the reference would tokenize differently from us, and the only value we offer.
# The second value is what the reference assumes when the key is absent.
_ONLY: Mapping[str, tuple[Any, Any]] = {
    "legacy": (False, True),
    "add_eos_token": (False, False),
    "add_prefix_space": (True, True),
    "clean_up_tokenization_spaces": (False, False),
    "sp_model_kwargs": ({}, {}),
}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token beside the sentencepiece model.

    Attributes:
        token_id: its id.
        content: its text.
        lstrip: whether it swallows the white space before it.
        rstrip: whether it swallows the white space after it.
    """

    token_id: int
    content: str
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the files say.

    Attributes:
        model: the serialised sentencepiece model.
        added: the added tokens, by rising id.
        special: texts that `skip_special_tokens` leaves out: bos, eos, unk, pad and the additional ones. Not
            the same as the added tokens marked `special`.
        add_bos: whether a prompt starts with the bos token.
        bos, eos: texts of these tokens.
    """

    model: bytes
    added: tuple[AddedToken, ...]
    special: frozenset[str]
    add_bos: bool
    bos: str
    eos: str


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the tokenizer files of a checkpoint folder.

    Raises:
        ConfigError: a file is missing or malformed, asks for rules we do not have, or contradicts another.
    """
    config = read_json(folder / CONFIG_FILE)
    _check_settings(config)
    added = _added_tokens(config)
    if (folder / ADDED_FILE).exists():
        _check_agreement(added, read_json(folder / ADDED_FILE))
    return TokenizerFiles(
        model=_read_bytes(folder / MODEL_FILE),
        added=added,
        special=frozenset(_special_texts(config)),
        add_bos=bool(config.get("add_bos_token", True)),
        bos=_text_of(config, "bos_token", "<s>"),
        eos=_text_of(config, "eos_token", "</s>"),
    )


def read_json(file: Path) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ConfigError: no such file, not JSON, or not an object.
    """
    try:
        raw = json.loads(_read_bytes(file))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a JSON object, found {type(raw).__name__}")
    return raw


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; a checkpoint folder needs its tokenizer files") from None


def _check_settings(config: Mapping[str, Any]) -> None:
    name = str(config.get("tokenizer_class", "LlamaTokenizer"))
    if name.removesuffix("Fast") != "LlamaTokenizer":
        raise ConfigError(f"{CONFIG_FILE}: tokenizer_class: only LlamaTokenizer is supported, found {name}")
    for key, (offered, absent) in _ONLY.items():
        found = config.get(key, absent)
        if found != offered:
            raise ConfigError(f"{CONFIG_FILE}: {key}: only {offered!r} is supported, found {found!r}")


def _added_tokens(config: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    entries = config.get("added_tokens_decoder")
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(
            f"{CONFIG_FILE}: added_tokens_decoder: missing; the added tokens' flags are read from it"
        )
    tokens = [_added_token(key, entry) for key, entry in entries.items()]
    if len({token.content for token in tokens}) != len(tokens):
        raise ConfigError(f"{CONFIG_FILE}: added_tokens_decoder: two ids share one content")
    return tuple(sorted(tokens, key=lambda token: token.token_id))


def _added_token(key: str, entry: Any) -> AddedToken:
    where = f"{CONFIG_FILE}: added_tokens_decoder.{key}"
    if not key.isdecimal() or not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected an id with an object")
    content = entry.get("content")
    if not isinstance(content, str) or not content:
        raise ConfigError(f"{where}.content: expected a text that is not empty")
    if entry.get("single_word", False):
        raise ConfigError(f"{where}.single_word: only False is supported")
    return AddedToken(
        token_id=int(key),
        content=content,
        lstrip=bool(entry.get("lstrip", False)),
        rstrip=bool(entry.get("rstrip", False)),
    )


def _check_agreement(added: tuple[AddedToken, ...], ids: Mapping[str, Any]) -> None:
    known = {token.content: token.token_id for token in added}
    for content, token_id in ids.items():
        if known.get(content) != token_id:
            raise ConfigError(
                f"{ADDED_FILE}: {content!r} has id {token_id}, "
                f"but added_tokens_decoder of {CONFIG_FILE} says {known.get(content)}"
            )


def _special_texts(config: Mapping[str, Any]) -> Iterator[str]:
    for key, absent in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")):
        yield _text_of(config, key, absent)
    for key in ("pad_token", "sep_token", "cls_token", "mask_token"):
        if config.get(key) is not None:
            yield _text_of(config, key, "")
    for entry in config.get("additional_special_tokens") or ():
        yield _text(entry, "additional_special_tokens")


def _text_of(config: Mapping[str, Any], key: str, absent: str) -> str:
    return _text(config.get(key, absent), key)


def _text(entry: Any, key: str) -> str:
    """A special token is written as a string, or as an object with a `content`."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{CONFIG_FILE}: {key}: expected a text that is not empty")
    return text
