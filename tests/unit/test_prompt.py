"""From messages to a prompt: layout, places of pictures, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest

from internvl.errors import ConfigError, InvalidField
from internvl.model_config import InternVLConfig
from llm_service.text.content import ChatMessage, ImagePart, Part, TextPart, VideoPart
from llm_service.text.detokenizer import decode
from llm_service.text.layout import Picture, PromptOptions
from llm_service.text.prompt import Prompt, VisualSlot, build_prompt
from llm_service.text.template import check_tokenizer
from llm_service.text.tokenizer import Tokenizer
from tests.unit import tokenizer_samples as samples

CAT, DOG, BIRD = ImagePart("cat", 3), ImagePart("dog", 1), ImagePart("bird", 2)
FILM = VideoPart("film", (1, 2, 1))
SAME_SYSTEM = ChatMessage("system", (TextPart("S"),))
BuildPrompt = Callable[..., Prompt]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(
        samples.write_tokenizer(tmp_path_factory.mktemp("tokenizer"), samples.trained_model())
    )


@pytest.fixture(scope="module")
def config(tokenizer: Tokenizer) -> InternVLConfig:
    return samples.model_config(tokenizer.vocab_size, tokens_per_tile=4)


@pytest.fixture(scope="module")
def build(tokenizer: Tokenizer, config: InternVLConfig) -> BuildPrompt:
    return partial(build_prompt, tokenizer=tokenizer, config=config)


@pytest.fixture(scope="module")
def shown(tokenizer: Tokenizer, build: BuildPrompt) -> Callable[..., str]:
    """The turns of a prompt as text, with `{n}` for a run of n visual tokens."""

    def show(*messages: ChatMessage, **options: object) -> str:
        prompt = build([SAME_SYSTEM, *messages], PromptOptions(**options))  # type: ignore[arg-type]
        return readable(tokenizer, prompt).removeprefix("<s> <|system|>S<|end|>")

    return show


def readable(tokenizer: Tokenizer, prompt: Prompt) -> str:
    controls = {tokenizer.control_id(content): content for content in (*samples.ADDED_TOKENS, "<s>")}
    text = ""
    for control, run in groupby(prompt.token_ids, key=controls.get):
        ids = list(run)
        if control is None:
            # The first piece of a decoded list loses its word mark, so one is put in front.
            text += decode(tokenizer, [tokenizer.encode(" ")[-1], *ids])[1:]
        else:
            text += f"{{{len(ids)}}}" if control == "<IMG_CONTEXT>" else control * len(ids)
    return text


def user(*parts: Part | str) -> ChatMessage:
    return ChatMessage("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str) -> ChatMessage:
    return ChatMessage("assistant", (TextPart(text),))


def test_conversation_without_a_system_message_gets_the_trained_one(
    tokenizer: Tokenizer, build: BuildPrompt
) -> None:
    text = (
        "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
        "英文名叫InternVL, 是一个有用无害的人工智能助手。"
    )
    prompt = build([user("Hello")], PromptOptions())
    assert prompt == build([ChatMessage("system", (TextPart(text),)), user("Hello")], PromptOptions())
    assert text in readable(tokenizer, prompt)


def test_empty_system_text_is_kept_empty(tokenizer: Tokenizer, build: BuildPrompt) -> None:
    prompt = build([ChatMessage("system", ()), user("Hello")], PromptOptions())
    assert readable(tokenizer, prompt).endswith("<|system|><|end|><|user|>Hello<|end|><|assistant|>")


def test_turns_follow_each_other_without_newlines(shown: Callable[..., str]) -> None:
    text = shown(user("One?"), assistant("Yes."), user("Two?"))
    assert text == "<|user|>One?<|end|><|assistant|>Yes.<|end|><|user|>Two?<|end|><|assistant|>"


def test_empty_answer_is_only_its_role(shown: Callable[..., str]) -> None:
    text = shown(user("One?"), assistant(""), user("Two?"))
    assert text == "<|user|>One?<|end|><|assistant|><|user|>Two?<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("parts", "options", "turn"),
    [
        ((CAT, "What?"), {}, "<img>{12}</img>\nWhat?"),
        (("What?", CAT), {}, "<img>{12}</img>\nWhat?"),
        ((CAT,), {}, "<img>{12}</img>\n"),
        ((CAT, DOG, "A?"), {}, "Image-1: <img>{12}</img>\nImage-2: <img>{4}</img>\nA?"),
        (("Is", CAT, "or", DOG), {}, "Image-1: <img>{12}</img>\nImage-2: <img>{4}</img>\nIs\nor"),
        (
            ("Is", CAT, "or", DOG, "?"),
            {"visuals_first": False},
            "IsImage-1: <img>{12}</img>\norImage-2: <img>{4}</img>\n?",
        ),
        (("a", "", "b"), {}, "a\nb"),
        (
            (FILM, "How?"),
            {},
            "Frame1: <img>{4}</img>\nFrame2: <img>{8}</img>\nFrame3: <img>{4}</img>\nHow?",
        ),
        ((VideoPart("film", (1,)), "?"), {}, "Frame1: <img>{4}</img>\n?"),
        ((CAT, VideoPart("film", (1,)), "?"), {}, "<img>{12}</img>\nFrame1: <img>{4}</img>\n?"),
    ],
)
def test_turn_is_laid_out(
    shown: Callable[..., str], parts: tuple[Part | str, ...], options: dict[str, object], turn: str
) -> None:
    assert shown(user(*parts), **options) == f"<|user|>{turn}<|end|><|assistant|>"


def test_pictures_are_numbered_through_the_conversation(shown: Callable[..., str]) -> None:
    text = shown(
        user(CAT, "1?"), assistant("1."), user(DOG, BIRD, "2?"), assistant("2."), user(FILM, CAT, "3?")
    )
    assert [part.split(":")[0] for part in text.split("Image")[1:]] == ["-2", "-3"]


def test_slots_say_which_tiles_go_where(tokenizer: Tokenizer, build: BuildPrompt) -> None:
    prompt = build([user(CAT, "1?"), assistant("1."), user(FILM, CAT, "2?")], PromptOptions())
    context = tokenizer.control_id("<IMG_CONTEXT>")

    assert [slot.picture for slot in prompt.visual_slots] == [
        Picture("cat", item=0, frame=None, first_tile=0, tiles=3),
        Picture("film", item=1, frame=0, first_tile=0, tiles=1),
        Picture("film", item=1, frame=1, first_tile=1, tiles=2),
        Picture("film", item=1, frame=2, first_tile=3, tiles=1),
        Picture("cat", item=2, frame=None, first_tile=0, tiles=3),
    ]
    covered = [position for slot in prompt.visual_slots for position in positions(slot)]
    assert covered == [position for position, token_id in enumerate(prompt.token_ids) if token_id == context]
    assert [slot.length for slot in prompt.visual_slots] == [12, 4, 8, 4, 12]


def positions(slot: VisualSlot) -> range:
    return range(slot.start, slot.start + slot.length)


@pytest.mark.parametrize("typed", [*samples.LOOK_ALIKES, "<IMG_CONTEXT>" * 9, "<img><IMG_CONTEXT></img>"])
def test_typed_control_tokens_change_nothing_but_the_text(
    tokenizer: Tokenizer, build: BuildPrompt, typed: str
) -> None:
    harmless = build([user(CAT, "x"), assistant("x"), user(DOG, "x")], PromptOptions())
    hostile = build([user(CAT, typed), assistant(typed), user(DOG, typed)], PromptOptions())

    controls = {tokenizer.control_id(content) for content in (*samples.ADDED_TOKENS, "<s>", "</s>", "<unk>")}
    assert [i for i in hostile.token_ids if i in controls] == [i for i in harmless.token_ids if i in controls]
    assert [slot.picture for slot in hostile.visual_slots] == [slot.picture for slot in harmless.visual_slots]
    assert readable(tokenizer, hostile).count(typed.strip()) >= 3


@pytest.mark.parametrize(
    ("messages", "field", "problem"),
    [
        ([], "messages", "at least one message"),
        ([SAME_SYSTEM], "messages", "user message"),
        ([assistant("Hi")], "messages[0].role", "first turn must be the user's"),
        ([SAME_SYSTEM, assistant("Hi")], "messages[1].role", "first turn must be the user's"),
        ([user("a"), assistant("b")], "messages[1].role", "last message must be the user's"),
        ([user("a"), user("b")], "messages[1].role", "take turns"),
        ([user("a"), assistant("b"), assistant("c"), user("d")], "messages[2].role", "take turns"),
        ([user("a"), SAME_SYSTEM], "messages[1].role", "must be the first"),
        ([SAME_SYSTEM, SAME_SYSTEM, user("a")], "messages[1].role", "must be the first"),
        ([ChatMessage("tool", (TextPart("a"),))], "messages[0].role", "one of system, user, assistant"),
        ([ChatMessage("user", ())], "messages[0].parts", "a text, a picture or a film"),
        ([user("a"), assistant("b"), user("", "")], "messages[2].parts", "a text, a picture or a film"),
        ([ChatMessage("system", (CAT,)), user("a")], "messages[0].parts[0].visual", "only allowed in user"),
        (
            [user("a"), ChatMessage("assistant", (TextPart("b"), FILM)), user("c")],
            "messages[1].parts[1].visual",
            "only allowed in user",
        ),
        ([user("a", ImagePart("cat", 0))], "messages[0].parts[1].visual", "at least one tile"),
        ([user(VideoPart("film", ()))], "messages[0].parts[0].visual", "at least one frame"),
        ([user(VideoPart("film", (1, 0)))], "messages[0].parts[0].visual", "at least one tile"),
        ([user("fine", "half \ud83d")], "messages[0].parts[1].text", "lone surrogate at character 5"),
        ([ChatMessage("system", (TextPart("\udc4d"),)), user("a")], "messages[0].parts[0].text", "surrogate"),
    ],
)
def test_unusable_messages_are_refused_by_field(
    build: BuildPrompt, messages: list[ChatMessage], field: str, problem: str
) -> None:
    with pytest.raises(InvalidField) as refusal:
        build(messages, PromptOptions())
    assert refusal.value.field == field
    assert problem in refusal.value.problem


def test_nul_is_a_character_like_any_other(shown: Callable[..., str]) -> None:
    assert shown(user("a\0b")) == "<|user|>a\0b<|end|><|assistant|>"


def test_tokenizer_that_fits_is_accepted(tokenizer: Tokenizer, config: InternVLConfig) -> None:
    check_tokenizer(tokenizer, config)


def test_embedding_table_that_is_too_small_is_refused(tokenizer: Tokenizer, config: InternVLConfig) -> None:
    small = replace(config, llm=replace(config.llm, vocab_size=tokenizer.vocab_size - 1))
    with pytest.raises(ConfigError, match=f"llm_config.vocab_size: {tokenizer.vocab_size - 1} is too small"):
        check_tokenizer(tokenizer, small)


def test_template_we_do_not_know_is_refused(tokenizer: Tokenizer, config: InternVLConfig) -> None:
    with pytest.raises(ConfigError, match="template: 'internlm2-chat' is not supported"):
        check_tokenizer(tokenizer, replace(config, template="internlm2-chat"))


def test_missing_control_tokens_are_named(tmp_path: Path, config: InternVLConfig) -> None:
    tokens = {
        "0": samples.added_token("<unk>"),
        "1": samples.added_token("<s>"),
        "1200": samples.added_token("<img>"),
    }
    folder = samples.write_tokenizer(
        tmp_path,
        samples.trained_model(),
        added_tokens_decoder=tokens,
        additional_special_tokens=None,
        eos_token=None,
        pad_token=None,
    )
    (folder / "added_tokens.json").unlink()
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(ConfigError, match=r"<\|system\|>.*<IMG_CONTEXT>, </img>"):
        check_tokenizer(tokenizer, config)
    with pytest.raises(ConfigError, match=r"<\|system\|>"):
        build_prompt([user("a")], PromptOptions(), tokenizer, config)
