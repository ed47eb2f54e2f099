"""JSON schemas and regular expressions to grammars, in bounded time and size."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from internvl.errors import InvalidField
from llm_service.guided.grammar import Form, GuidedGrammar, Mask, is_allowed, unpack
from llm_service.guided.problems import NEVER, probe_problem, regex_problem, schema_problem
from llm_service.guided.vocabulary import HasPieces, Vocabulary

_KEPT_FORMS = 16

# In the library's own measures, so the same grammars meet them on every machine. They keep a token below
# 4 ms, compiling below 2 s and an answer below 40 MB; see docs/decisions.md.
_LIMITS = LLParserLimits(
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    verbose_errors=False,
)

# Every text may be cut into tokens as the model likes.
_HEADER = '%llguidance {"no_forcing": true}\nstart: '

# Between the tokens of JSON. Bounded, lest a small model indent for ever.
_JSON_OPTIONS = {"whitespace_pattern": r"[ \n\t]{1,32}"}


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and keeps those used last. Safe to share between threads.

    What a grammar describes is the whole text of the answer, as it is decoded: the word mark of the first
    token adds nothing, and white space at the ends counts.
    """

    def __init__(self, tokenizer: HasPieces) -> None:
        self._vocabulary = Vocabulary.of(tokenizer)
        self._schema_form = lru_cache(_KEPT_FORMS)(self._compile_schema)
        self._regex_form = lru_cache(_KEPT_FORMS)(self._compile_regex)

    def json_schema(self, text: str, path: str) -> GuidedGrammar:
        """The grammar of the JSON values that a schema (draft 2020-12 and before) describes.

        Objects have their properties in the order of the schema.

        Args:
            path: the request's field, for errors.

        Raises:
            InvalidField: it is no schema, uses what is not supported, has no values, or is too costly.
        """
        return GuidedGrammar(_named(path, self._schema_form, text), path)

    def regex(self, text: str, path: str) -> GuidedGrammar:
        """The grammar of the texts that a regular expression matches as a whole: Rust's syntax, in Unicode.

        Args:
            path: the request's field, for errors.

        Raises:
            InvalidField: it is no regular expression, uses what is not supported, matches nothing, or is too
                costly.
        """
        return GuidedGrammar(_named(path, self._regex_form, text), path)

    def _compile_schema(self, text: str) -> Form:
        schema = _parse(text)
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise _Refused(NEVER if schema is False else "must be an object or a boolean")
        source = json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, allow_nan=False)
        return self._compile(f"%json {source}", schema_problem)

    def _compile_regex(self, text: str) -> Form:
        return self._compile(f"/{regex_to_lark(text, '')}/", regex_problem)

    def _compile(self, start: str, problem: Callable[[str], str]) -> Form:
        vocabulary = self._vocabulary
        first = _matcher(vocabulary.first, start, problem)
        bits = np.frombuffer(first.compute_bitmask(), np.uint8)
        allowed = unpack(bits, vocabulary.size)
        may_be_empty = is_allowed(bits, vocabulary.end_id)
        _probe(first, allowed, may_be_empty=may_be_empty)
        allowed[list(vocabulary.silent_ids)] = True
        rest = _matcher(vocabulary.rest, start, problem)
        rest.compute_bitmask()  # so that copies begin with what it found out
        return Form(vocabulary, rest, allowed, may_be_empty)


class _Refused(Exception):
    """A grammar that cannot be used; the message is for the caller."""


def _named(path: str, compiled: Callable[[str], Form], text: str) -> Form:
    try:
        return compiled(text)
    except _Refused as refused:
        raise InvalidField(path, str(refused)) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _Refused("is nested too deeply") from None
    except ValueError:
        raise _Refused("is not valid JSON") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _matcher(tokenizer: LLTokenizer, start: str, problem: Callable[[str], str]) -> LLMatcher:
    matcher = LLMatcher(tokenizer, _HEADER + start, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise _Refused(problem(matcher.get_error()))
    return matcher


def _probe(matcher: LLMatcher, first: Mask, *, may_be_empty: bool) -> None:
    """Take a first step, so that what is impossible or too costly is refused before anything is generated."""
    tokens = np.flatnonzero(first)
    if len(tokens):
        matcher.consume_token(int(tokens[0]))
        matcher.compute_bitmask()
    if matcher.is_error() or not (len(tokens) or may_be_empty):
        raise _Refused(probe_problem(matcher.get_error()))
