"""Decoded text against the slow LlamaTokenizer of transformers 4.57, `legacy=False`."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_pairs import CONTROLS, FUZZ, UNICODE, VOCABULARIES, Pair, load_pair

from llm_service.text.detokenizer import Detokenizer, decode
from llm_service.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=VOCABULARIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(request.param, tmp_path_factory.mktemp(request.param))


def test_text_is_decoded_as_the_reference_decodes_it(pair: Pair) -> None:
    @FUZZ
    @given(token_ids(pair.ours))
    def check(ids: list[int]) -> None:
        assert decode(pair.ours, ids) == pair.reference.decode(ids, skip_special_tokens=True)

    check()


def test_every_id_is_decoded_as_the_reference_decodes_it(pair: Pair) -> None:
    word = pair.ours.encode("word")[-1]
    for token_id in range(0, pair.ours.vocab_size, 1 if pair.ours.vocab_size < 5000 else 7):
        for ids in ([token_id], [word, token_id, word]):
            assert decode(pair.ours, ids) == pair.reference.decode(ids, skip_special_tokens=True)


def test_streamed_text_is_a_growing_part_of_the_decoded_text(pair: Pair) -> None:
    @settings(FUZZ, max_examples=100)  # the reference decodes each beginning anew
    @given(token_ids(pair.ours))
    def check(ids: list[int]) -> None:
        detokenizer = Detokenizer(pair.ours)
        streamed = ""
        for count, token_id in enumerate(ids, 1):
            streamed += detokenizer.push(token_id)
            assert pair.reference.decode(ids[:count], skip_special_tokens=True).startswith(streamed)
        assert streamed + detokenizer.flush() == pair.reference.decode(ids, skip_special_tokens=True)

    check()


def token_ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids of ordinary text, of single bytes in any order, of control tokens, and of anything."""
    ids = (tokenizer.control_id(content) for content in CONTROLS)
    controls = [token_id for token_id in ids if token_id is not None]
    byte = st.integers(3, 258)
    mark = st.just(tokenizer.encode(" a <|user|>")[-2])
    single = st.one_of(st.integers(0, tokenizer.vocab_size - 1), byte, st.sampled_from(controls), mark)
    written = UNICODE.map(lambda said: tokenizer.encode_segments([said]))
    runs = st.lists(st.one_of(single.map(lambda one: [one]), written), max_size=12)
    return runs.map(lambda runs: [*chain.from_iterable(runs)])
