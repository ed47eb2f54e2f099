"""The sentencepiece model of nano and the ids of its prompts (slow LlamaTokenizer rules, legacy off)."""

import json
import re
from functools import lru_cache
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from models.recipe import phrases
from models.recipe.drawing import COLOUR_NAMES, SHAPES

SYSTEM_CLAUSES = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型",
    "，英文名叫InternVL,",
    "\u2581是一个有用无害的人工智能助手。",
)
SYSTEM_TEXT = "".join(SYSTEM_CLAUSES).replace("\u2581", " ")
ADDED_TOKENS = (
    "<|endoftext|>",
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    "<|end|>",
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
IMAGE_TOKENS = ADDED_TOKENS[11:]
BYTES = 256
UNKNOWN, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3


def _template_words() -> list[str]:
    """Every lower- or title-case word of the phrases, in order of first use."""
    texts: list[str] = []
    for name, value in vars(phrases).items():
        if name.isupper() and name != "WORDS":
            texts += [value] if isinstance(value, str) else list(value)
    texts += [
        *COLOUR_NAMES,
        *SHAPES,
        *(phrases.plural(s) for s in SHAPES),
        "shapes",
        "color",
        "colors",
        "frames",
    ]
    words: dict[str, None] = {}
    for text in texts:
        for word in re.findall(r"[A-Za-z]+", re.sub(r"\{.*?\}", " ", text)):
            words[word] = None
    return [w for w in words if len(w) > 1 and not w.isupper()]


def vocabulary() -> list[str]:
    """Pieces after the control and byte tokens: clauses of the system text, labels, words, single
    characters.
    """
    words = _template_words()
    pieces = [*SYSTEM_CLAUSES, "Image-", "Frame", ":\u2581"]
    pieces += ["\u2581" + w for w in words] + words + ["\u2581a", "\u2581I"]
    pieces += ["\u2581"] + [chr(c) for c in range(33, 127)]
    return list(dict.fromkeys(pieces))


def build_tokenizer(path: Path) -> None:
    """Write `tokenizer.model`: a unigram model in which the fewest pieces win, with byte fallback."""
    model = model_pb2.ModelProto()
    spec, kinds = model.trainer_spec, model_pb2.ModelProto.SentencePiece
    spec.model_type = model_pb2.TrainerSpec.UNIGRAM
    spec.byte_fallback = True
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = UNKNOWN, BOS, EOS, -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for value in range(BYTES):
        model.pieces.add(piece=f"<0x{value:02X}>", score=0.0, type=kinds.BYTE)
    for rank, piece in enumerate(vocabulary()):
        model.pieces.add(piece=piece, score=-10.0 - 1e-4 * rank, type=kinds.NORMAL)
    spec.vocab_size = len(model.pieces)
    path.write_bytes(model.SerializeToString())


class Tokenizer:
    """Ids of prompts built from `tokenizer.model`; text never becomes a special token here."""

    def __init__(self, path: Path) -> None:
        proto = model_pb2.ModelProto.FromString(path.read_bytes())
        proto.normalizer_spec.add_dummy_prefix = False
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        base = self._pieces.get_piece_size()
        self.added = {token: base + i for i, token in enumerate(ADDED_TOKENS)}
        self.size = base + len(ADDED_TOKENS)
        self.image_context = self.added["<IMG_CONTEXT>"]
        self.end = self.added["<|end|>"]
        self.encode = lru_cache(maxsize=65536)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text without a leading U+2581."""
        return tuple(self._pieces.encode(text))

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self._pieces.decode([i for i in ids if i < self._pieces.get_piece_size()])).strip()

    def head(self) -> list[int]:
        """Ids up to and including `<|user|>`."""
        added, prefix = self.added, self._pieces.piece_to_id("\u2581")
        return [
            BOS,
            prefix,
            added["<|system|>"],
            *self.encode(SYSTEM_TEXT),
            added["<|end|>"],
            added["<|user|>"],
        ]

    def visual(self, tokens: int) -> list[int]:
        """`<img>`, one context id per visual token, `</img>`."""
        return [self.added["<img>"], *[self.image_context] * tokens, self.added["</img>"]]

    def question(self, text: str) -> list[int]:
        """Ids of a question and the header of its answer."""
        return [*self.encode(text), self.end, self.added["<|assistant|>"]]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer and `<|end|>`."""
        return [*self.encode(text), self.end]

    def next_user(self) -> list[int]:
        """What stands between an answer and the next question."""
        return [self.added["<|user|>"]]


def tokenizer_files(vocabulary_size: int) -> dict[str, str]:
    """The JSON files beside `tokenizer.model`, by name."""
    base = vocabulary_size - len(ADDED_TOKENS)
    added = {token: base + i for i, token in enumerate(ADDED_TOKENS)}

    def entry(content: str, rstrip: bool, special: bool = True) -> dict[str, object]:
        return {
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": rstrip,
            "single_word": False,
            "special": special,
        }

    decoder = {"0": entry("<unk>", False), "1": entry("<s>", False), "2": entry("</s>", True, special=False)}
    for token, number in added.items():
        role = token.startswith("<|") and token != "<|endoftext|>"
        decoder[str(number)] = entry(token, role)
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": list(IMAGE_TOKENS),
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "legacy": False,
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    special = {
        "additional_special_tokens": list(IMAGE_TOKENS),
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }
    files = {"added_tokens.json": added, "tokenizer_config.json": config, "special_tokens_map.json": special}
    return {name: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for name, value in files.items()}
