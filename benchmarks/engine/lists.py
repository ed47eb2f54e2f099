"""An answer that repeats itself in form: a list of records as JSON, one a line, held to that by a grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llm_service.engine.request import Grammar
from llm_service.guided import GrammarCompiler
from llm_service.loading import LoadedModel
from models.recipe.drawing import COLOUR_NAMES, SHAPES
from models.recipe.phrases import PLACES

_FIELDS = {"shape": SHAPES, "colour": COLOUR_NAMES, "place": PLACES}


def record_list(model: LoadedModel, records: int) -> Grammar:
    """So many records; the model chooses the values."""
    fields = ", ".join(f'"{name}": "{_one_of(values)}"' for name, values in _FIELDS.items())
    return _compile(model, "\n".join([rf"\{{{fields}\}}"] * records))


def exactly(model: LoadedModel, text: str) -> Grammar:
    """Exactly this text."""
    return _compile(model, re.escape(text))


def _one_of(values: Sequence[str]) -> str:
    return f"({'|'.join(values)})"


def _compile(model: LoadedModel, regex: str) -> Grammar:
    return GrammarCompiler(model.tokenizer).regex(regex, "benchmark")
