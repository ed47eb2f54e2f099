"""Streaming text out of token ids: whole characters, stop ids and texts, and the ends that chat() strips."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import ConfigError, InvalidField
from llm_service.text.answer import AnswerStream, StopRules
from llm_service.text.detokenizer import Detokenizer, decode
from llm_service.text.stopping import StopChecker, default_stop_ids
from llm_service.text.tokenizer import Tokenizer
from tests.unit import tokenizer_samples as samples

FIRST_BYTE = 3  # id of the byte 0 in a model with byte fallback
FUZZ = settings(max_examples=500, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    model = samples.with_pieces(samples.trained_model(), samples.RELEASED_PIECES)
    return Tokenizer.load(samples.write_tokenizer(tmp_path_factory.mktemp("tokenizer"), model))


def plain(tokenizer: Tokenizer, said: str) -> list[int]:
    return tokenizer.encode_segments([said])[1:]


def spelled(said: bytes) -> list[int]:
    return [FIRST_BYTE + byte for byte in said]


def streamed(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*map(detokenizer.push, token_ids), detokenizer.flush()]


def test_bytes_of_a_character_come_out_together(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, spelled("a👍b".encode())) == ["a", "", "", "", "👍", "b", ""]


def test_byte_that_begins_nothing_comes_out_at_once(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, spelled(b"\xe4\xb8A\xff")) == ["", "", "\ufffd\ufffdA", "\ufffd", ""]


def test_incomplete_character_is_replaced_only_at_the_end(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, spelled("中".encode()[:2])) == ["", "", "\ufffd\ufffd"]


def test_incomplete_character_before_a_whole_piece_is_replaced(tokenizer: Tokenizer) -> None:
    ids = [*spelled("中".encode()[:2]), *plain(tokenizer, "x.")[-1:]]
    assert streamed(tokenizer, ids) == ["", "", "\ufffd\ufffd.", ""]


def test_special_token_does_not_part_the_bytes_of_a_character(tokenizer: Tokenizer) -> None:
    first, *rest = spelled("中".encode())
    assert decode(tokenizer, [first, 32012, *rest]) == "中"


def test_only_the_first_word_loses_its_mark(tokenizer: Tokenizer) -> None:
    the = tokenizer.encode("the")[1:]
    assert streamed(tokenizer, the * 3) == ["the", " the", " the", ""]


def test_id_beyond_the_vocabulary_is_nothing(tokenizer: Tokenizer) -> None:
    assert decode(tokenizer, [*plain(tokenizer, "Hello"), tokenizer.vocab_size, 40000]) == "Hello"


def test_deltas_are_always_whole_characters(tokenizer: Tokenizer) -> None:
    @FUZZ
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1) | st.integers(3, 258)))
    def check(ids: list[int]) -> None:
        deltas = streamed(tokenizer, ids)
        assert "".join(deltas).encode().decode() == "".join(deltas)  # no half of a surrogate pair
        assert "".join(deltas) == decode(tokenizer, ids)

    check()


def test_text_is_never_replaced_when_its_bytes_are_sound(tokenizer: Tokenizer) -> None:
    sound = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))

    @FUZZ
    @given(sound)
    def check(said: str) -> None:
        assert "".join(streamed(tokenizer, spelled(said.encode()))) == said

    check()


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By definition: cut before the longest of the stop texts that are complete first."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def longest_beginning(text: str, stops: list[str]) -> int:
    """Length of the longest end of `text` that begins a stop text."""
    lengths = (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n]))
    return max(lengths, default=0)


@FUZZ
@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=6), max_size=3),
    st.lists(st.integers(0, 30)),
)
def test_stop_text_never_leaks_however_the_text_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    checker = StopChecker(stops)
    expected, match = first_stop(text, stops)
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    out, found = "", None
    for start, end in pairwise(borders):
        push = checker.push(text[start:end])
        out += push.text
        found = push.match
        if found is not None:
            break
        assert len(text[:end]) - len(out) == longest_beginning(text[:end], stops)  # and no more
    else:
        out += checker.flush()
    assert (out, found) == (expected, match)


def test_stop_text_is_let_through_while_the_answer_may_not_stop() -> None:
    checker = StopChecker(["stop"])
    first = checker.push("a stop, st", may_stop=False)
    second = checker.push("op!")
    assert (first.text, first.match, second.text, second.match) == ("a stop, ", None, "", "stop")


def test_stop_text_may_begin_within_one_that_was_let_through() -> None:
    checker = StopChecker(["aba"])
    first = checker.push("xaba", may_stop=False)
    second = checker.push("ba")
    assert (first.text + second.text, second.match) == ("xab", "aba")


def test_empty_stop_text_is_refused_by_field() -> None:
    with pytest.raises(InvalidField) as refusal:
        StopChecker(["fine", ""])
    assert refusal.value.field == "sampling.stop[1]"


def answer(tokenizer: Tokenizer, rules: StopRules, ids: list[int]) -> tuple[str, AnswerStream]:
    stream = AnswerStream(tokenizer, rules)
    text = ""
    for token_id in ids:
        text += stream.push(token_id)
        if stream.stopped:
            break
    return text + stream.flush(), stream


def test_answer_is_what_chat_makes_of_it(tokenizer: Tokenizer) -> None:
    end = 32007
    word = st.sampled_from([" ", "\n", "\t", "Hello", " world", "图", "👍", "<|end|>", "<|", "end"])
    single = st.integers(3, 258) | st.sampled_from([2, 32000, 32001, end, 32010])
    run = st.one_of(word.map(lambda said: plain(tokenizer, said)), single.map(lambda one: [one]))

    @FUZZ
    @given(st.lists(run).map(lambda runs: [token_id for run in runs for token_id in run]))
    def check(ids: list[int]) -> None:
        generated = ids[: ids.index(end) + 1] if end in ids else ids  # generation stops at eos, and keeps it
        text, _ = answer(tokenizer, StopRules(frozenset({end})), ids)
        assert text == decode(tokenizer, generated).split("<|end|>")[0].strip()

    check()


def test_verbatim_answer_keeps_its_white_space_and_a_spelled_end_of_turn(tokenizer: Tokenizer) -> None:
    ids = plain(tokenizer, " \nHello<|end|> \n")
    assert answer(tokenizer, StopRules(frozenset()), ids)[0] == "Hello"
    assert answer(tokenizer, StopRules(frozenset(), verbatim=True), ids)[0] == " \nHello<|end|> \n"


def test_stop_text_across_tokens_ends_the_answer(tokenizer: Tokenizer) -> None:
    rules = StopRules(frozenset(), texts=("\nUser:", "###"))
    text, stream = answer(tokenizer, rules, plain(tokenizer, "It is red. \nUser: and then?"))
    assert (text, stream.stopped, stream.stop_match) == ("It is red.", True, "\nUser:")


def test_end_of_turn_spelled_as_text_ends_the_answer_without_a_match(tokenizer: Tokenizer) -> None:
    text, stream = answer(tokenizer, StopRules(frozenset()), plain(tokenizer, "Red<|end|>blue"))
    assert (text, stream.stopped, stream.stop_match) == ("Red", True, None)


def test_stop_id_ends_the_answer_and_nothing_follows(tokenizer: Tokenizer) -> None:
    stream = AnswerStream(tokenizer, StopRules(frozenset({32007})))
    pushed = [
        stream.push(token_id) for token_id in [*plain(tokenizer, "Hello"), 32007, *plain(tokenizer, " more")]
    ]
    assert ("".join(pushed), stream.stopped, stream.flush()) == ("Hello", True, "")


def test_answer_does_not_stop_before_its_minimum(tokenizer: Tokenizer) -> None:
    rules = StopRules(frozenset({32007}), texts=("b",), min_tokens=3)
    text, stream = answer(tokenizer, rules, [*spelled(b"(b"), 32007, *spelled(b")b)")])
    assert (text, stream.stop_match) == ("(b)", "b")


@pytest.mark.parametrize(
    ("generation_config", "more"),
    [(None, set()), ({}, set()), ({"eos_token_id": 5}, {5}), ({"eos_token_id": [32007, 9]}, {9})],
)
def test_default_stop_ids_are_all_that_may_end_a_turn(
    tokenizer: Tokenizer, tmp_path: Path, generation_config: dict[str, object] | None, more: set[int]
) -> None:
    if generation_config is not None:
        samples.write_json(tmp_path / "generation_config.json", generation_config)
    assert default_stop_ids(tokenizer, tmp_path) == {2, 32000, 32001, 32007} | more


def test_stop_ids_follow_the_names_of_the_file(tmp_path: Path) -> None:
    small = Tokenizer.load(samples.write_tokenizer(tmp_path, samples.trained_model()))
    names = ("</s>", "<|endoftext|>", "<|assistant|>", "<|end|>")
    assert default_stop_ids(small, tmp_path) == {small.control_id(name) for name in names}
    assert max(default_stop_ids(small, tmp_path)) < small.vocab_size < 32000


def test_malformed_eos_is_refused_by_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    samples.write_json(tmp_path / "generation_config.json", {"eos_token_id": "end"})
    with pytest.raises(ConfigError, match="eos_token_id"):
        default_stop_ids(tokenizer, tmp_path)
