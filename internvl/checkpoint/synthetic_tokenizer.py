"""Tokenizer files for a random Phi-3 checkpoint, so that services can start on it.

The pieces are made up; what is real is the form: ids of the control tokens counted from the end of the
vocabulary, byte pieces at 3 to 258, single characters last and the lone U+2581 first among them, as in
the Llama vocabulary (there it has id 29871). Any text encodes, and decodes to itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from internvl.errors import ConfigError
from internvl.model_config import LlmConfig

_ROLE_TOKENS = (
    *("<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>", "<|placeholder4|>"),
    *("<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>"),
)
_IMAGE_TOKENS = (
    *("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
)
_ADDED_TOKENS = ("<|endoftext|>", *_ROLE_TOKENS, *_IMAGE_TOKENS)

_SPACE = "\u2581"
_SPECIAL_PIECES = 3
_BYTE_PIECES = 256
_CHARACTERS = 2129
_SMALLEST_BASE = _SPECIAL_PIECES + _BYTE_PIECES + 1


def can_make_tokenizer(config: LlmConfig) -> bool:
    """Whether the form of the tokenizer is known for this model and its vocabulary has room for it."""
    return config.architecture == "Phi3ForCausalLM" and _base_size(config) >= _SMALLEST_BASE


def write_tokenizer(folder: Path, config: LlmConfig) -> None:
    """Write tokenizer.model, tokenizer_config.json, added_tokens.json and special_tokens_map.json.

    Raises:
        ConfigError: the sentencepiece package is not installed.
    """
    base = _base_size(config)
    (folder / "tokenizer.model").write_bytes(_sentencepiece_model(base))
    for name, content in _json_files(base).items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def _base_size(config: LlmConfig) -> int:
    return config.vocab_size - len(_ADDED_TOKENS)


def _sentencepiece_model(size: int) -> bytes:
    """A BPE model of `size` pieces with byte fallback and the settings of the Llama tokenizer."""
    try:
        from sentencepiece import sentencepiece_model_pb2 as proto
    except ImportError as error:
        raise ConfigError(f"making up a tokenizer needs the package sentencepiece ({error})") from None
    kind = proto.ModelProto.SentencePiece
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = size
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.pieces.add(piece="<unk>", score=0.0, type=kind.UNKNOWN)
    model.pieces.add(piece="<s>", score=0.0, type=kind.CONTROL)
    model.pieces.add(piece="</s>", score=0.0, type=kind.CONTROL)
    for value in range(_BYTE_PIECES):
        model.pieces.add(piece=f"<0x{value:02X}>", score=0.0, type=kind.BYTE)
    for rank, piece in enumerate(_pieces(size - _SPECIAL_PIECES - _BYTE_PIECES)):
        model.pieces.add(piece=piece, score=float(-rank), type=kind.NORMAL)
    data: bytes = model.SerializeToString()
    return data


def _pieces(count: int) -> Iterator[str]:
    """Longer pieces first, in the order in which BPE merges them, then single characters."""
    characters = min(count, _CHARACTERS)
    yield from islice(_merges(), count - characters)
    printable = (chr(code) for code in chain(range(0x21, 0x7F), range(0xA1, 0x180), range(0x4E00, 0xA000)))
    yield from islice(chain([_SPACE], printable), characters)


def _merges() -> Iterator[str]:
    """Pairs before triples, so that every triple can be reached through a pair."""
    first = _SPACE + ascii_lowercase
    yield from map("".join, product(first, ascii_lowercase))
    yield from map("".join, product(first, ascii_lowercase, ascii_lowercase))
    yield from map("".join, product(first, ascii_lowercase, ascii_lowercase, ascii_lowercase))


def _json_files(base: int) -> dict[str, dict[str, Any]]:
    added = {token: base + offset for offset, token in enumerate(_ADDED_TOKENS)}
    names = {
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "additional_special_tokens": list(_IMAGE_TOKENS),
    }
    decoder = {"<unk>": 0, "<s>": 1, "</s>": 2} | added
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "padding_side": "left",
        "sp_model_kwargs": {},
        "added_tokens_decoder": {str(number): _flags(token) for token, number in decoder.items()},
    }
    return {
        "added_tokens.json": added,
        "special_tokens_map.json": names,
        "tokenizer_config.json": settings | names,
    }


def _flags(token: str) -> dict[str, Any]:
    """In Phi-3 the role tokens and `</s>` swallow the white space to their right; image tokens do not."""
    return {
        "content": token,
        "lstrip": False,
        "normalized": False,
        "rstrip": token == "</s>" or token in _ROLE_TOKENS,
        "single_word": False,
        "special": token != "</s>",
    }
