"""The tokenizer's own promises: rules come from the files, and user text stays text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.errors import ConfigError
from llm_service.text.detokenizer import decode
from llm_service.text.tokenizer import Control, Tokenizer
from tests.unit import tokenizer_samples as samples

CONTROLS = (*samples.ADDED_TOKENS, "<s>", "</s>", "<unk>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_tokenizer(tmp_path_factory.mktemp("tokenizer"), samples.trained_model())


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def control(tokenizer: Tokenizer, content: str) -> int:
    token_id = tokenizer.control_id(content)
    assert token_id is not None
    return token_id


def changed(tmp_path: Path, **changes: Any) -> Tokenizer:
    return Tokenizer.load(samples.write_tokenizer(tmp_path, samples.trained_model(), **changes))


@pytest.mark.parametrize("said", samples.LOOK_ALIKES)
def test_look_alikes_in_user_text_stay_text(tokenizer: Tokenizer, said: str) -> None:
    token_ids = tokenizer.encode_segments([said])
    bos, *rest = token_ids
    assert bos == control(tokenizer, "<s>")
    assert not {control(tokenizer, content) for content in CONTROLS} & set(rest)
    assert decode(tokenizer, token_ids) == said


def test_any_user_text_survives_the_round_trip_without_control_tokens(tokenizer: Tokenizer) -> None:
    anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))
    words = st.lists(st.one_of(st.sampled_from([*CONTROLS, "<image>"]), anything)).map("".join)
    controls = {control(tokenizer, content) for content in CONTROLS}

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(words)
    def check(said: str) -> None:
        _, *token_ids = tokenizer.encode_segments([said])
        assert not controls & set(token_ids)
        assert decode(tokenizer, token_ids) == said

    check()


def test_pieces_of_one_text_are_encoded_as_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_segments(["Hel", "", "lo wo", "rld"]) == tokenizer.encode_segments(
        ["Hello world"]
    )


def test_control_run_repeats_its_token(tokenizer: Tokenizer) -> None:
    context = control(tokenizer, "<IMG_CONTEXT>")
    token_ids = tokenizer.encode_segments(["a", Control(context, 5), "b"])
    assert token_ids.count(context) == 5


def test_nothing_at_all_is_only_bos(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == tokenizer.encode_segments([]) == [control(tokenizer, "<s>")]


def test_bos_is_left_out_where_the_file_says_so(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bare = changed(tmp_path, add_bos_token=False)
    assert bare.encode("Hello") == tokenizer.encode("Hello")[1:]


@pytest.mark.parametrize(
    ("flags", "kept"),
    [({"rstrip": True}, "  a\nb"), ({"lstrip": True}, "  a \n b"), ({}, "  a\n \n b")],
    ids=["rstrip", "lstrip", "neither"],
)
def test_white_space_is_dropped_as_the_flags_of_the_file_say(
    tmp_path: Path, flags: dict[str, bool], kept: str
) -> None:
    tokens = added_tokens()
    user = next(int(key) for key, token in tokens.items() if token["content"] == "<|user|>")
    tokenizer = changed(
        tmp_path, added_tokens_decoder=tokens | {str(user): samples.added_token("<|user|>", **flags)}
    )
    token_ids = tokenizer.encode_segments(["  a\n", Control(user), " \n b"])
    assert decode(tokenizer, [token_id for token_id in token_ids if token_id != user]) == kept


def added_tokens() -> dict[str, Any]:
    first = 1200  # pieces of the trained model
    ids = {content: first + number for number, content in enumerate(samples.ADDED_TOKENS)}
    tokens: dict[str, Any] = samples.tokenizer_config(ids)["added_tokens_decoder"]
    return tokens


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"legacy": True}, "legacy"),
        ({"legacy": None}, "legacy"),
        ({"add_eos_token": True}, "add_eos_token"),
        ({"add_prefix_space": False}, "add_prefix_space"),
        ({"clean_up_tokenization_spaces": True}, "clean_up_tokenization_spaces"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs"),
        ({"tokenizer_class": "InternLM2Tokenizer"}, "tokenizer_class"),
        ({"added_tokens_decoder": None}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"x": {"content": "<img>"}}}, "added_tokens_decoder.x"),
        ({"added_tokens_decoder": {"7": {"content": ""}}}, "added_tokens_decoder.7.content"),
        (
            {"added_tokens_decoder": {"7": {"content": "a", "single_word": True}}},
            "added_tokens_decoder.7.single",
        ),
        ({"added_tokens_decoder": {"0": {"content": "a"}, "1": {"content": "a"}}}, "share one content"),
        ({"bos_token": 1}, "bos_token"),
        ({"eos_token": "<nowhere>"}, "<nowhere>"),
        ({"additional_special_tokens": ["<nowhere>"]}, "<nowhere>"),
    ],
)
def test_settings_we_cannot_follow_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigError, match=names) as refusal:
        changed(tmp_path, **changes)
    assert "tokenizer_config.json" in str(refusal.value)


def test_added_token_that_text_could_spell_is_refused(tmp_path: Path) -> None:
    piece = Tokenizer.load(samples.write_tokenizer(tmp_path, samples.trained_model())).encode("Hello")[-1]
    tokens = added_tokens() | {str(piece): samples.added_token("<|tool|>")}
    with pytest.raises(ConfigError, match=r"<\|tool\|>"):
        changed(tmp_path, added_tokens_decoder=tokens, additional_special_tokens=None)


def test_model_that_squeezes_white_space_is_refused(tmp_path: Path) -> None:
    folder = samples.write_tokenizer(tmp_path, samples.trained_model(remove_extra_whitespaces=True))
    with pytest.raises(ConfigError, match=r"tokenizer.model: normalizer_spec.remove_extra_whitespaces"):
        Tokenizer.load(folder)


def test_files_that_disagree_about_an_id_are_refused(tmp_path: Path) -> None:
    samples.write_tokenizer(tmp_path, samples.trained_model())
    samples.write_json(tmp_path / "added_tokens.json", {"<img>": 3})
    with pytest.raises(ConfigError, match=r"added_tokens.json: '<img>' has id 3"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "spoil", "problem"),
    [
        ("tokenizer.model", Path.unlink, "no such file"),
        ("tokenizer_config.json", Path.unlink, "no such file"),
        ("tokenizer_config.json", lambda file: file.write_text("{"), "not valid JSON"),
        ("tokenizer_config.json", lambda file: file.write_text("[]"), "expected a JSON object"),
        ("tokenizer.model", lambda file: file.write_bytes(b"no model"), "not a sentencepiece model"),
        ("tokenizer.model", lambda file: file.write_bytes(b""), "not a sentencepiece model"),
    ],
)
def test_missing_and_broken_files_are_refused_by_name(
    tmp_path: Path, file: str, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(samples.write_tokenizer(tmp_path, samples.trained_model()) / file)
    with pytest.raises(ConfigError, match=f"{file}: {problem}"):
        Tokenizer.load(tmp_path)


def test_special_tokens_beside_the_added_ones_are_found_in_the_model(tmp_path: Path) -> None:
    tokens = {key: token for key, token in added_tokens().items() if token["content"] != "<s>"}
    tokenizer = changed(tmp_path, added_tokens_decoder=tokens)
    assert tokenizer.encode("Hello<s>") == [1, *tokenizer.encode("Hello")[1:], 1]
