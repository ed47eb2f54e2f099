"""Token ids against the slow LlamaTokenizer of transformers 4.57, `legacy=False`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from token_pairs import (
    CONTROLS,
    FUZZ,
    SYSTEM,
    UNICODE,
    VOCABULARIES,
    Pair,
    load_pair,
    mistral_model,
)
from transformers import LlamaTokenizer

from llm_service.text.content import ChatMessage, ImagePart, Role, TextPart, VideoPart
from llm_service.text.layout import PromptOptions
from llm_service.text.prompt import build_prompt
from llm_service.text.tokenizer import Tokenizer
from tests.unit import tokenizer_samples as samples


@pytest.fixture(scope="module", params=VOCABULARIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(request.param, tmp_path_factory.mktemp(request.param))


def text(role: str, said: str) -> ChatMessage:
    return ChatMessage(role, (TextPart(said),))


def harmless(said: str) -> bool:
    return not any(token in said for token in (*CONTROLS, "<image>"))


SPACED = st.lists(
    st.sampled_from([" ", "\n", "\t", "\r\n", "\u3000", "\u2581", "a", "Hi", "图", "👍", "<", "|>", "<|"])
)
SAID = st.one_of(UNICODE, SPACED.map("".join), st.sampled_from(samples.TEXTS)).filter(harmless)
PICTURES = st.one_of(
    st.builds(ImagePart, st.just("visual"), st.integers(1, 3)),
    st.builds(VideoPart, st.just("visual"), st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple)),
)


def conversations() -> st.SearchStrategy[list[ChatMessage]]:
    """A system text or none, and turns that alternate, the user's last; pictures before the text."""
    question = st.tuples(st.lists(PICTURES, max_size=3), SAID.filter(bool)).map(
        lambda turn: ChatMessage(Role.USER, (*turn[0], TextPart(turn[1])))
    )
    answer = SAID.map(lambda said: text(Role.ASSISTANT, said))
    system = st.lists(SAID.map(lambda said: text(Role.SYSTEM, said)), max_size=1)
    rounds = st.lists(st.tuples(question, answer), max_size=3)
    return st.tuples(system, rounds, question).map(
        lambda chat: [*chat[0], *(turn for pair in chat[1] for turn in pair), chat[2]]
    )


def reference_turns(messages: Sequence[ChatMessage]) -> tuple[str, list[tuple[str, str]], list[int]]:
    """System text, turns and tile counts as a user of the reference would write them by hand."""
    system, turns, tiles, number = SYSTEM, [], [], 0
    for message in messages:
        said = ""
        several = sum(isinstance(part, ImagePart) for part in message.parts) > 1
        for part in message.parts:
            if isinstance(part, ImagePart):
                number += 1
                said += f"Image-{number}: <image>\n" if several else "<image>\n"
                tiles.append(part.tiles)
            elif isinstance(part, VideoPart):
                said += "".join(f"Frame{frame}: <image>\n" for frame in range(1, len(part.frames) + 1))
                tiles.extend(part.frames)
            else:
                said += part.text
        if message.role == Role.SYSTEM:
            system = said
        else:
            turns.append((message.role, said))
    return system, turns, tiles


@pytest.mark.parametrize("said", [*samples.TEXTS, *samples.LOOK_ALIKES])
def test_template_text_is_parsed_as_the_reference_parses_it(pair: Pair, said: str) -> None:
    for framed in (
        said,
        f"<|user|>\n{said}<|end|>",
        f"<img>{said}</img>\n{said}",
        f"</s>{said}<|endoftext|>{said}",
    ):
        assert pair.ours.encode(framed) == pair.reference(framed).input_ids


def test_longest_added_token_is_found_first(tmp_path: Path) -> None:
    tokens = {
        str(1300 + n): samples.added_token(text) for n, text in enumerate(("<a", "<a>", "<a><b>", "b>"))
    }
    folder = samples.write_tokenizer(tmp_path, samples.trained_model())
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    config["added_tokens_decoder"] |= tokens
    samples.write_json(folder / "tokenizer_config.json", config)
    framed = "<a <a> <a><b> <a><b <b> <a<b>"
    assert Tokenizer.load(folder).encode(framed) == LlamaTokenizer.from_pretrained(folder)(framed).input_ids


@pytest.mark.parametrize("said", samples.TEXTS)
def test_question_has_the_ids_of_chat(pair: Pair, said: str) -> None:
    assert pair.prompt_ids([text("user", said)]) == pair.chat_ids([("user", said)])


@pytest.mark.parametrize("said", samples.TEXTS)
def test_question_about_an_image_has_the_ids_of_chat(pair: Pair, said: str) -> None:
    messages = [ChatMessage("user", (ImagePart("cat", 3), TextPart(said)))]
    assert pair.prompt_ids(messages) == pair.chat_ids([("user", f"<image>\n{said}")], [3])


@pytest.mark.parametrize("said", samples.TEXTS)
def test_several_turns_have_the_ids_of_chat(pair: Pair, said: str) -> None:
    turns = [("user", f"{said}?"), ("assistant", said), ("user", said), ("assistant", ""), ("user", said)]
    assert pair.prompt_ids([text(role, words) for role, words in turns]) == pair.chat_ids(turns)


def test_image_without_text_has_the_ids_of_chat(pair: Pair) -> None:
    assert pair.prompt_ids([ChatMessage("user", (ImagePart("cat", 1),))]) == pair.chat_ids(
        [("user", "<image>\n")], [1]
    )


def test_conversations_have_the_ids_of_chat(pair: Pair) -> None:
    @FUZZ
    @given(conversations())
    def check(messages: list[ChatMessage]) -> None:
        system, turns, tiles = reference_turns(messages)
        assert pair.prompt_ids(messages) == pair.chat_ids(turns, tiles, system)

    check()


def test_any_template_text_has_the_ids_of_the_reference(pair: Pair) -> None:
    words = st.lists(
        st.one_of(st.sampled_from([*samples.ADDED_TOKENS, "<s>", "</s>", "<unk>"]), SAID, UNICODE)
    )

    @FUZZ
    @given(words.map("".join))
    def check(framed: str) -> None:
        assert pair.ours.encode(framed) == pair.reference(framed).input_ids

    check()


def test_one_image_question_has_the_published_structure(tmp_path: Path) -> None:
    model = samples.with_pieces(samples.trained_model(), samples.RELEASED_PIECES)
    ours = Tokenizer.load(samples.write_tokenizer(tmp_path, model))
    config = samples.model_config(vocab_size=32020, tokens_per_tile=256)
    message = ChatMessage("user", (ImagePart("cat", 13), TextPart("How many shapes?")))

    prompt = build_prompt([message], PromptOptions(), ours, config)

    # In order: bos, word mark, <|system|>, text, <|end|>; <|user|>, <img>, 256 a tile, </img>, newline, text,
    # <|end|>; <|assistant|>.
    plain = partial(plain_ids, SentencePieceProcessor(model_proto=model))
    assert list(prompt.token_ids) == (
        [1, plain("\u2581")[0], 32006, *plain(SYSTEM), 32007, 32010, 32011]
        + [32013] * (256 * 13)
        + [32012, 13, *plain("How many shapes?"), 32007, 32001]
    )


def plain_ids(processor: SentencePieceProcessor, said: str) -> list[int]:
    """Ids without a prefix, by sentencepiece alone: what follows a newline."""
    return list(processor.encode("\n" + said)[len(processor.encode("\n")) :])


def test_hello_has_these_ids(tmp_path: Path) -> None:
    """Recorded from the reference on Mistral's vocabulary: 28705 is the word mark, 16230 `Hello`."""
    ours = Tokenizer.load(samples.write_tokenizer(tmp_path, mistral_model()))
    config = samples.model_config(vocab_size=32020, tokens_per_tile=4)
    message = ChatMessage("user", (ImagePart("cat", 1), TextPart("Hello")))

    prompt = build_prompt([message], PromptOptions(), ours, config)

    # fmt: off
    system = (
        29383, 28971, 29590, 29054, 29726, 29086, 29487, 30882, 29084, 29247, 29502, 30763, 29821, 29234,
        29397, 233, 180, 167, 30226, 30021, 29177, 29099, 28914, 30117, 29128, 29292, 29266, 29283, 29050,
        29266, 29173, 28924, 30193, 29019, 29046, 31219, 18531, 23537, 28725, 28705, 28971, 28518, 28998,
        28963, 29375, 31346, 28914, 29086, 29487, 30882, 29084, 30278, 29427, 28944,
    )
    image = (32011, 32013, 32013, 32013, 32013, 32012)
    assert prompt.token_ids == (1, 28705, 32006, *system, 32007, 32010, *image, 13, 16230, 32007, 32001)
    # fmt: on
    assert ours.encode("Hello") == [1, 22557]
