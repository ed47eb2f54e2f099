"""Our tokenizer beside the reference's, on four vocabularies.

Mistral's released one (a Llama-style model of 32000 pieces), one trained here and filled up to 32000 pieces,
the same at its own size, where no id is the released one, and the embedded model's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from internvl.model_config import InternVLConfig
from llm_service.text.content import ChatMessage
from llm_service.text.layout import PromptOptions
from llm_service.text.prompt import build_prompt
from llm_service.text.tokenizer import Tokenizer
from tests.unit import tokenizer_samples as samples

VOCABULARIES = ("mistral", "trained", "small", "nano")
TOKENS_PER_TILE = 4
SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
CONTROLS = (*samples.ADDED_TOKENS, "<s>", "</s>", "<unk>")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@dataclass(frozen=True)
class Pair:
    """Our tokenizer and the reference's on the same files."""

    ours: Tokenizer
    reference: LlamaTokenizer
    config: InternVLConfig

    def prompt_ids(self, messages: Sequence[ChatMessage], options: PromptOptions | None = None) -> list[int]:
        return list(build_prompt(messages, options or PromptOptions(), self.ours, self.config).token_ids)

    def chat_ids(
        self, turns: Sequence[tuple[str, str]], tiles: Sequence[int] = (), system: str = SYSTEM
    ) -> list[int]:
        """Ids of the string that chat() builds; `turns` hold `<image>` markers, one for each of `tiles`."""
        text = f"<|system|>\n{system}<|end|>"
        for role, said in turns:
            text += f"<|{role}|>\n" + (f"{said}<|end|>" if said else "")
        text += "<|assistant|>\n"
        for count in tiles:
            text = text.replace("<image>", "<img>" + "<IMG_CONTEXT>" * TOKENS_PER_TILE * count + "</img>", 1)
        return list(self.reference(text).input_ids)


def load_pair(name: str, scratch: Path) -> Pair:
    """Both on one of `VOCABULARIES`."""
    folder = tokenizer_folder(name, scratch)
    ours = Tokenizer.load(folder)
    reference = LlamaTokenizer.from_pretrained(folder)
    return Pair(ours, reference, samples.model_config(ours.vocab_size, TOKENS_PER_TILE))


def tokenizer_folder(name: str, scratch: Path) -> Path:
    match name:
        case "mistral":
            return samples.write_tokenizer(scratch, mistral_model())
        case "trained":
            model = samples.with_pieces(samples.trained_model(), samples.RELEASED_PIECES)
            return samples.write_tokenizer(scratch, model)
        case "small":
            return samples.write_tokenizer(scratch, samples.trained_model())
        case _:
            return nano_folder()


def mistral_model() -> bytes:
    package = importlib.util.find_spec("mistral_common")
    if package is None or package.origin is None:
        pytest.skip("mistral-common, which ships the vocabulary, is not installed")
    return (Path(package.origin).parent / "data" / "tokenizer.model.v1").read_bytes()


def nano_folder() -> Path:
    folder = Path(__file__).parents[2] / "models" / "nano"
    if not (folder / "tokenizer.model").exists():
        pytest.skip("the embedded model has not been trained")
    return folder
