"""The wire's Grammar: checked, and compiled."""

from __future__ import annotations

from internvl.errors import InvalidField
from internvl.v1 import llm_service_pb2
from llm_service.engine.request import Grammar
from llm_service.guided import GrammarCompiler

MAX_SCHEMA_BYTES = 64 * 1024
MAX_REGEX_BYTES = 4 * 1024

_FIELD = "open.sampling.grammar"


def read_grammar(message: llm_service_pb2.Grammar, grammars: GrammarCompiler) -> Grammar:
    """Compile the form that an answer must have. Takes time for large ones.

    Raises:
        InvalidField: nothing is set, it is too long, or it is no such grammar.
    """
    match message.WhichOneof("form"):
        case "json_schema":
            field = f"{_FIELD}.json_schema"
            _check_length(message.json_schema, MAX_SCHEMA_BYTES, field)
            return grammars.json_schema(message.json_schema, field)
        case "regex":
            field = f"{_FIELD}.regex"
            _check_length(message.regex, MAX_REGEX_BYTES, field)
            return grammars.regex(message.regex, field)
        case _:
            raise InvalidField(_FIELD, "needs a json_schema or a regex")


def _check_length(text: str, limit: int, field: str) -> None:
    length = len(text.encode())
    if not 1 <= length <= limit:
        raise InvalidField(field, f"must have 1 to {limit} bytes, got {length}")
