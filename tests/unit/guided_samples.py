"""Answers drawn under a grammar from a model that knows nothing, in the two vocabularies at hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llm_service.engine.request import Grammar, Request, SamplingParams
from llm_service.engine.sampler import TokenSampler
from llm_service.guided import GrammarCompiler
from llm_service.text.answer import AnswerStream, StopRules
from llm_service.text.stopping import default_stop_ids
from llm_service.text.tokenizer import Tokenizer
from tests.unit import tokenizer_samples

PADDING = 19  # rows of the embedding table behind the last token


@dataclass(frozen=True)
class Language:
    """A tokenizer with its stop ids, and a compiler for it."""

    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    compiler: GrammarCompiler


@dataclass(frozen=True)
class Answer:
    """What was drawn.

    Attributes:
        complete: whether it was ended by a stop id, not for its length.
    """

    token_ids: tuple[int, ...]
    text: str
    complete: bool


def language(name: str, scratch: Path) -> Language:
    """The embedded model's vocabulary ("nano"), or a released one of 32,000 pieces ("released")."""
    folder = _nano_folder() if name == "nano" else _released_folder(scratch)
    tokenizer = Tokenizer.load(folder)
    return Language(tokenizer, default_stop_ids(tokenizer, folder), GrammarCompiler(tokenizer))


def draw(
    language: Language,
    grammar: Grammar,
    seed: int,
    *,
    most: int = 400,
    delivered: Sequence[int] = (),
    **sampling: object,
) -> Answer:
    """Let a model that likes every token alike, and changes its mind each time, answer under a grammar."""
    params = SamplingParams(
        **{"temperature": 2.0, "seed": seed, "stop_ids": language.stop_ids, **sampling},  # type: ignore[arg-type]
        max_tokens=most,
        grammar=grammar,
    )
    sampler = TokenSampler(Request("r", np.arange(3), params), 0)
    stream = AnswerStream(language.tokenizer, StopRules(params.stop_ids, verbatim=True))
    texts: list[str] = []
    for token in delivered:
        sampler.accept(token)
        texts.append(stream.push(token))
    token_ids = list(delivered)
    while not stream.stopped and len(token_ids) < most:
        logits = row(language, seed, len(token_ids))
        token_ids.append(sampler.sample(logits[None])[0].token_id)
        texts.append(stream.push(token_ids[-1]))
    complete = stream.stopped
    return Answer(tuple(token_ids), "".join([*texts, stream.flush()]), complete)


def row(language: Language, seed: int, place: int) -> NDArray[np.float32]:
    """The logits of one place in an answer."""
    return np.random.default_rng([seed, place]).standard_normal(width(language)).astype(np.float32)


def width(language: Language) -> int:
    """Logits of a row: more than there are tokens."""
    return language.tokenizer.vocab_size + PADDING


def _nano_folder() -> Path:
    folder = Path(__file__).parents[2] / "models" / "nano"
    if not (folder / "tokenizer.model").exists():
        pytest.skip("the embedded model has not been trained")
    return folder


def _released_folder(scratch: Path) -> Path:
    package = importlib.util.find_spec("mistral_common")
    if package is None or package.origin is None:
        pytest.skip("mistral-common, which ships the vocabulary, is not installed")
    model = (Path(package.origin).parent / "data" / "tokenizer.model.v1").read_bytes()
    return tokenizer_samples.write_tokenizer(scratch, model)
