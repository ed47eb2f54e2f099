"""Grammars that cannot be used: told apart precisely, in bounded time, without a word of their content."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from internvl.errors import InvalidField
from tests.unit.guided_samples import Language, draw, language, width

MARK = "Zyx"  # stands for what a user wrote, in every grammar below that has room for it
COSTLY = "takes too much work; simplify it"
NEVER = "nothing can ever match it"


class Written(str):
    """A schema as its text."""


OVERLAPPING = {
    "allOf": [{"anyOf": [{"properties": {f"{MARK}{i}_{j}": {}}} for j in range(4)]} for i in range(12)]
}
SCHEMAS: dict[str, tuple[Any, str]] = {
    "not JSON": (Written("{" + MARK), "is not valid JSON"),
    "empty": (Written(""), "is not valid JSON"),
    "not a number": (Written('{"const": NaN}'), "is not valid JSON"),
    "a long number": (Written('{"const": ' + "9" * 60_000 + "}"), "is not valid JSON"),
    "brackets": (Written("[" * 60_000), "is nested too deeply"),
    "deep": (Written('{"items":' * 6000 + "{}" + "}" * 6000), "is nested too deeply"),
    "a list": ([MARK], "must be an object or a boolean"),
    "a text": (MARK, "must be an object or a boolean"),
    "false": (False, NEVER),
    "no value": ({"type": "string", "minLength": 5, "maxLength": 2, "title": MARK}, NEVER),
    "two types": ({"allOf": [{"type": "string"}, {"const": 7, "title": MARK}]}, NEVER),
    "only itself": ({"$ref": "#", "title": MARK}, NEVER),
    "a circle": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        NEVER,
    ),
    "keywords": (
        {"not": {"const": MARK}, "uniqueItems": True, MARK: 1},
        "uses keywords that are not supported: not, uniqueItems",
    ),
    "overlap": (
        {"oneOf": [{"type": "string"}, {"const": MARK}]},
        "has a oneOf whose branches may overlap; use anyOf",
    ),
    "properties": (
        {"patternProperties": {f"^{MARK}": {}, f"{MARK}$": {}}},
        "has patternProperties that may overlap; they must not",
    ),
    "format": ({"type": "string", "format": MARK}, "names a string format that is not supported"),
    "remote": ({"$ref": f"https://{MARK}/x"}, "refers to another document; it must be complete in itself"),
    "pattern": ({"type": "string", "pattern": f"({MARK}"}, "holds a malformed regular expression"),
    "type": ({"type": MARK}, "is not a JSON schema, or not one that is supported"),
    "surrogate": (Written('{"const": "\\ud800"}'), "is not a JSON schema, or not one that is supported"),
    "explosion": (OVERLAPPING, COSTLY),
    "multiples": (
        {"allOf": [{"type": "integer", "multipleOf": p} for p in (97, 101, 103, 107, 109, 113)]},
        COSTLY,
    ),
    "many optional": (
        {"type": "object", "properties": {f"{MARK}{number}": {} for number in range(2500)}},
        COSTLY,
    ),
    "one huge step": (
        {"type": "integer", "multipleOf": 104_729, "minimum": 3, "maximum": 99_999_999_999},
        COSTLY,
    ),
    "intersection": (
        {"allOf": [{"type": "string", "pattern": f"a.{{{20 * k}}}$"} for k in range(1, 20)]},
        COSTLY,
    ),
}
EXPRESSIONS = {
    f"({MARK}": "holds a malformed regular expression",
    "[z-a]": "holds a malformed regular expression",
    "(" * 2000 + ")" * 2000: "holds a malformed regular expression",
    "(" * 1000 + "a" + ")*" * 1000: "holds a malformed regular expression",
    r"(?-u:\xff)": "holds a malformed regular expression",
    f"(?={MARK})a": "holds a look-around; they are not supported",
    rf"({MARK})\1": "holds a back-reference; they are not supported",
    f"{MARK}$a": "holds an anchor or word boundary that is not at its ends",
    rf"\b{MARK}": "holds an anchor or word boundary that is not at its ends",
    r"[^\s\S]": NEVER,
    r"a[^\s\S]b": NEVER,
}
# These only look dangerous, to matchers that try one way after the other or spell everything out.
HARMLESS = ("(a+)+b", "(a|a)*b", "(.*)*x", "(a{1000}){1000}", "a{100000}", ".*a.{20}", "(a?){500}a{500}")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Language:
    return language("nano", tmp_path_factory.mktemp("nano"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_refused_with_its_problem(words: Language, name: str) -> None:
    schema, problem = SCHEMAS[name]
    written = schema if isinstance(schema, Written) else json.dumps(schema)
    begun = time.monotonic()
    with pytest.raises(InvalidField) as refused:
        words.compiler.json_schema(written, "form.json_schema")
    assert time.monotonic() - begun < 20
    assert (refused.value.field, refused.value.problem) == ("form.json_schema", problem)
    assert MARK not in str(refused.value)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_is_refused_with_its_problem(words: Language, expression: str) -> None:
    with pytest.raises(InvalidField) as refused:
        words.compiler.regex(expression, "form.regex")
    assert (refused.value.field, refused.value.problem) == ("form.regex", EXPRESSIONS[expression])
    assert MARK not in str(refused.value)


@pytest.mark.parametrize("expression", HARMLESS)
def test_expression_that_only_looks_dangerous_is_followed(words: Language, expression: str) -> None:
    answer = draw(words, words.compiler.regex(expression, "form"), seed=1, most=60)
    assert answer.text


def test_schema_cannot_loosen_its_own_rules(words: Language) -> None:
    for options in ({"lenient": True}, {"coerce_one_of": True}, {"whitespace_pattern": MARK}):
        with pytest.raises(InvalidField, match="uses keywords that are not supported: not"):
            words.compiler.json_schema(json.dumps({"not": {}, "x-guidance": options}), "form")


@pytest.mark.parametrize("text", ['a/\nother: "b"', "a\\\n", "a/ | /b", "a/i\n%ignore /b/", "\\"])
def test_expression_is_nothing_but_an_expression(words: Language, text: str) -> None:
    """What would end it in the language that the library reads stays part of it."""
    guide = words.compiler.regex(text, "form").start(words.stop_ids)
    allowed = np.flatnonzero(np.isfinite(guide.restrict(np.zeros(width(words), np.float32))))
    shown = {words.tokenizer.pieces[token].first_text for token in allowed}
    assert not shown & {"b", "o", "other"}


def test_grammar_that_becomes_too_costly_fails_its_answer_alone(words: Language) -> None:
    """Every token leads to a state not seen before, until there is no room for more."""
    costly = words.compiler.regex(r"(.*[a-m].{200}){5}x", "open.sampling.grammar.regex")
    with pytest.raises(
        InvalidField, match=r"^open\.sampling\.grammar\.regex: takes too much work for one token"
    ):
        draw(words, costly, seed=1, most=300)
    assert draw(words, words.compiler.regex("yes", "form"), seed=1).text == "yes"


def test_grammars_used_last_are_kept(words: Language) -> None:
    schema = json.dumps({"type": "object", "properties": {f"p{number}": {} for number in range(300)}})
    first, again = (words.compiler.json_schema(schema, path) for path in ("one", "two"))
    assert first.form is again.form
    assert (first.path, again.path) == ("one", "two")
