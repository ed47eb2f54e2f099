"""Answers under a grammar before independent judges: json, jsonschema, re, a search through all tokens."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import numpy as np
import pytest

from internvl.errors import InvalidField
from llm_service.engine.request import Request, SamplingParams
from llm_service.engine.sampler import TokenSampler
from llm_service.text.pieces import PieceKind
from tests.unit.guided_samples import Language, draw, language, row, width

LINE = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "price": {"type": "number", "minimum": -5},
    },
    "required": ["text", "count"],
    "additionalProperties": False,
}
SCHEMAS = {
    "invoice": {
        "type": "object",
        "properties": {
            "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
            "date": {"type": "string", "format": "date"},
            "currency": {"enum": ["EUR", "USD", 7, None]},
            "lines": {"type": "array", "items": LINE, "minItems": 1, "maxItems": 2},
        },
        "required": ["number", "date", "currency", "lines"],
        "additionalProperties": False,
    },
    "variants": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": "red circle"}}, "required": ["kind"]},
            {"type": "boolean"},
            {"type": "array", "prefixItems": [{"type": "null"}], "maxItems": 2, "minItems": 1},
        ]
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
    },
    "free": {},
    "text": {"type": "string", "minLength": 2, "maxLength": 30},
}
EXPRESSIONS = (
    r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]",
    r"(yes|no|maybe), (red|green|blue) (circle|square)s?",
    r"\s?The [a-z ]{1,30}\.\n?",
    r"[^a-z]{1,20}",
    r"图(中|片)[一-龥]{1,5}。",
    r"(👍|👨‍👩‍👧|é){1,4}",
    r"a/b\\c\n\"d\"/?",
    r"|once",
    r"<\|end\|>x?",
    "\u2581{2}",
)


@pytest.fixture(scope="module", params=["nano", "released"])
def words(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Language:
    return language(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Language:
    return language("nano", tmp_path_factory.mktemp("nano"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_are_json_of_their_schema(words: Language, name: str) -> None:
    grammar = words.compiler.json_schema(json.dumps(SCHEMAS[name]), "form")
    complete = 0
    for seed in range(12):
        answer = draw(words, grammar, seed)
        if answer.complete:
            complete += 1
            jsonschema.validate(json.loads(answer.text), SCHEMAS[name])
    assert complete >= 5  # what nothing bounds may grow beyond the length of an answer


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_answers_match_their_expression(words: Language, expression: str) -> None:
    grammar = words.compiler.regex(expression, "form")
    answers = [draw(words, grammar, seed) for seed in range(12)]
    assert all(answer.complete for answer in answers)
    assert all(re.fullmatch(expression, answer.text) for answer in answers)


@pytest.mark.parametrize("first", ["", "▁", "r", "re"])
def test_allowed_tokens_are_those_of_a_search_through_all_texts(words: Language, first: str) -> None:
    texts = ["red", "red circle", "reb", "green", " red", "é"]
    guide = words.compiler.regex("|".join(texts), "form").start(words.stop_ids)
    pieces = words.tokenizer.pieces
    begun = b""
    for char in first:
        wanted = "" if char == "▁" else char
        token = next(
            token_id
            for token_id, piece in enumerate(pieces)
            if piece.kind is PieceKind.TEXT and (piece.text if begun else piece.first_text) == wanted
        )
        guide.accept(token)
        begun += wanted.encode()
    allowed = np.flatnonzero(np.isfinite(guide.restrict(np.zeros(width(words), np.float32))))
    expected = []
    for token_id, piece in enumerate(pieces):
        shown = piece.text if first else piece.first_text
        added = bytes([piece.byte]) if piece.kind is PieceKind.BYTE else shown.encode()
        silent = piece.kind is PieceKind.TEXT and not added and not first
        fits = added and any(text.encode().startswith(begun + added) for text in texts)
        if piece.kind in {PieceKind.TEXT, PieceKind.BYTE} and (fits or silent):
            expected.append(token_id)
    assert allowed.tolist() == expected


def test_stop_ids_are_allowed_exactly_where_the_answer_is_complete(words: Language) -> None:
    ordinary = next(i for i, piece in enumerate(words.tokenizer.pieces) if piece.text == "b")
    stops = frozenset({*words.stop_ids, ordinary})
    guide = words.compiler.regex("a?bb?", "form").start(stops)

    def stopping() -> set[int]:
        restricted = guide.restrict(np.zeros(width(words), np.float32))
        return {int(token) for token in np.flatnonzero(np.isfinite(restricted)) if token in stops}

    byte = {piece.byte: i for i, piece in enumerate(words.tokenizer.pieces) if piece.kind is PieceKind.BYTE}
    assert stopping() == set()
    guide.accept(byte[ord("a")])
    assert stopping() == set()  # the caller's own stop id as well, though the grammar could take its text
    guide.accept(byte[ord("b")])
    assert stopping() == stops
    guide.accept(min(stops))
    assert stopping() == stops  # the least length may keep an answer open


def test_stop_ids_that_are_all_that_could_come_are_told_from_a_broken_model(nano: Language) -> None:
    pieces = enumerate(nano.tokenizer.pieces)
    taken = nano.stop_ids.union(token for token, piece in pieces if piece.own_bytes.strip().startswith(b"a"))
    with pytest.raises(InvalidField, match=r"stop_token_ids") as refused:
        draw(nano, nano.compiler.regex("aaa", "path"), 1, stop_ids=taken)
    assert refused.value.field == "path"


def test_least_length_never_breaks_a_complete_answer(nano: Language) -> None:
    grammar = nano.compiler.regex("yes|no", "form")
    answer = draw(nano, grammar, seed=1, most=20, min_tokens=10)
    assert answer.text in {"yes", "no"}


def test_no_bias_brings_in_what_is_forbidden(nano: Language) -> None:
    grammar = nano.compiler.regex("[ab]{8}", "form")
    tokens = [i for i, piece in enumerate(nano.tokenizer.pieces) if piece.text in {"c", "d"}]
    bias = tuple((token, 100.0) for token in tokens)
    assert re.fullmatch("[ab]{8}", draw(nano, grammar, seed=1, temperature=0.0, logit_bias=bias).text)


def test_answers_of_one_grammar_do_not_disturb_each_other(nano: Language) -> None:
    grammar = nano.compiler.json_schema(json.dumps(SCHEMAS["invoice"]), "form")
    alone = [draw(nano, grammar, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: draw(nano, grammar, seed), range(8)))
    assert together == alone


def test_an_answer_resumes_at_every_token(nano: Language) -> None:
    grammar = nano.compiler.json_schema(json.dumps(SCHEMAS["variants"]), "form")
    whole = draw(nano, grammar, seed=3)
    for cut in range(len(whole.token_ids) + 1):
        assert draw(nano, grammar, seed=3, delivered=whole.token_ids[:cut]) == whole


def test_drafts_change_no_token_under_a_grammar(nano: Language) -> None:
    grammar = nano.compiler.json_schema(json.dumps(SCHEMAS["invoice"]), "form")
    whole = draw(nano, grammar, seed=5).token_ids
    asked = Request(
        "r",
        np.arange(3),
        SamplingParams(temperature=2.0, seed=5, stop_ids=nano.stop_ids, max_tokens=400, grammar=grammar),
    )
    sampler = TokenSampler(asked, 0)
    taken: list[int] = []
    while len(taken) < len(whole):
        right = whole[len(taken) :][: len(taken) % 5]
        drafts = [*right, min(nano.stop_ids), 600]  # ends with what the grammar would not take
        rows = np.stack([row(nano, 5, len(taken) + number) for number in range(len(drafts) + 1)])
        taken += [sampled.token_id for sampled in sampler.sample(rows, drafts)]
    assert tuple(taken[: len(whole)]) == whole


@pytest.mark.parametrize("delivered", ["x", "yesx", "<|end|>", "ye<|end|>", "yes<|end|>x"])
def test_delivered_tokens_must_follow_the_grammar(nano: Language, delivered: str) -> None:
    end = nano.tokenizer.control_id("<|end|>") or 0
    letters = {piece.text: i for i, piece in enumerate(nano.tokenizer.pieces) if len(piece.text) == 1}
    spelled = re.findall(r"<\|end\|>|.", delivered)
    guide = nano.compiler.regex("yes", "form").start(nano.stop_ids)
    *right, wrong = [letters.get(part, end) for part in spelled]
    for token in right:
        guide.accept(token)
    with pytest.raises(InvalidField, match=r"^open\.delivered_token_ids: must follow the grammar$"):
        guide.accept(wrong)


def test_delivered_id_beyond_the_vocabulary_is_refused(nano: Language) -> None:
    guide = nano.compiler.regex("yes", "form").start(nano.stop_ids)
    with pytest.raises(InvalidField, match="delivered_token_ids"):
        guide.accept(nano.tokenizer.vocab_size + ord("y"))


def test_rows_narrower_than_the_vocabulary_are_restricted_too(nano: Language) -> None:
    guide = nano.compiler.regex("yes", "form").start(frozenset())
    byte = next(i for i, piece in enumerate(nano.tokenizer.pieces) if piece.byte == ord("y"))
    restricted = guide.restrict(np.zeros(byte + 1, np.float32))
    assert np.flatnonzero(np.isfinite(restricted)).tolist()[-1] == byte
