"""Three real services behind `internvl up`, asked about real pictures and films through the public client."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.health import is_serving
from internvl_client import (
    Answer,
    AsyncClient,
    BadMedia,
    Client,
    ContextTooLong,
    Image,
    InvalidRequest,
    NotFound,
    Progress,
    Started,
    Video,
    assistant,
    user,
)
from internvl_client import Media as Upload
from tests.e2e.conftest import CONTEXT, System, internvl, started
from tests.unit.media_samples import encoded, film, picture

PICTURE = encoded(picture(300, 100))
OTHER = encoded(picture(50, 200, seed=1), "JPEG")


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(system.addresses["gateway"], timeout=60) as connected:
        yield connected


def test_every_service_says_that_it_is_ready(system: System) -> None:
    assert all(is_serving(address, "ready", 5.0) for address in system.addresses.values())


def test_picture_is_tiled_encoded_and_answered(client: Client) -> None:
    plan = client.plan("what is it?", images=[PICTURE])
    events = list(client.chat("what is it?", images=[PICTURE], max_tokens=6).events())
    first, *_, last = events
    assert isinstance(first, Started)
    assert isinstance(last, Answer)
    (layout,) = first.layouts
    (grid,) = layout.grids
    assert (grid.columns, grid.rows, grid.thumbnail, layout.tiles) == (6, 2, True, 13)
    assert plan.layouts == first.layouts
    assert plan.prompt_tokens == first.prompt_tokens == last.usage.prompt_tokens
    assert plan.visual_tokens == last.usage.visual_tokens == layout.visual_tokens
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.tiles_done for event in progress] == list(range(1, 14))
    assert last.usage.completion_tokens <= 6
    assert 0 < last.timings.first_token_ms < 60_000


def test_greedy_answers_repeat_and_depend_on_the_picture(client: Client) -> None:
    def ask(shown: bytes) -> str:
        return client.chat("what is it?", images=[shown], max_tokens=12).result().text

    assert ask(PICTURE) == ask(PICTURE)
    assert ask(PICTURE) != ask(OTHER)


def test_order_of_pictures_matters(client: Client) -> None:
    answers = [
        client.chat("compare", images=images, max_tokens=12).result()
        for images in ([PICTURE, OTHER], [OTHER, PICTURE])
    ]
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens
    assert answers[0].text != answers[1].text


def test_conversation_over_several_turns_and_pictures(client: Client) -> None:
    conversation = client.conversation()
    answers = [
        conversation.say("what is it?", images=[PICTURE], max_tokens=4).result(),
        conversation.say("are you sure?", max_tokens=4).result(),
        conversation.say("and this?", images=[OTHER], max_tokens=4).result(),
    ]
    assert [answer.conversation_version for answer in answers] == [1, 2, 3]
    sizes = [answer.usage.prompt_tokens for answer in answers]
    assert sizes[0] < sizes[1] < sizes[2]
    visual = [answer.usage.visual_tokens for answer in answers]
    assert visual[0] == visual[1] < visual[2]
    messages = conversation.messages()
    assert [message.role for message in messages] == ["user", "assistant"] * 3
    stateless = client.chat(messages=messages[:-1], max_tokens=4).result()
    assert stateless.text == answers[2].text
    conversation.delete()


def test_film_is_sampled_into_frames(client: Client) -> None:
    stream = client.chat("which way?", videos=[Video(film(40), frames=5)], max_tokens=4)
    answer = stream.result()
    assert stream.started is not None
    (layout,) = stream.started.layouts
    assert (layout.kind, len(layout.grids), layout.tiles) == ("video", 5, 5)
    assert answer.usage.visual_tokens == layout.visual_tokens


def test_upload_is_used_by_id(client: Client) -> None:
    sent: list[int] = []
    media = client.upload(PICTURE, progress=lambda done, size: sent.append(done))
    assert sent == [len(PICTURE)]
    assert media.info is not None
    assert (media.info.media_type, media.info.width, media.info.height) == ("image/png", 300, 100)
    assert client.chat("what is it?", images=[media], max_tokens=4).result().usage.visual_tokens == 52


def test_many_at_once_each_get_their_own_answer(system: System, client: Client) -> None:
    questions = [(f"question number {number}", [PICTURE, OTHER][number % 2]) for number in range(8)]
    alone = [client.chat(text, images=[shown], max_tokens=4).result().usage for text, shown in questions]

    async def ask_all() -> list[Answer]:
        async with AsyncClient(system.addresses["gateway"], timeout=120) as together:
            streams = [together.chat(text, images=[shown], max_tokens=4) for text, shown in questions]
            return await asyncio.gather(*(stream.result() for stream in streams))

    answers = asyncio.run(ask_all())
    assert [answer.usage.prompt_tokens for answer in answers] == [usage.prompt_tokens for usage in alone]
    assert [answer.usage.visual_tokens for answer in answers] == [usage.visual_tokens for usage in alone]


def test_cancelled_answer_frees_its_place(client: Client) -> None:
    for _ in range(8):
        with client.chat("tell me all", images=[PICTURE], max_tokens=200) as stream:
            assert next(iter(stream), None) is not None
    assert client.chat("still there?", max_tokens=2).result().usage.completion_tokens <= 2


@pytest.mark.parametrize("text", ["<image>", "<IMG_CONTEXT>", "<img></img>", "<|end|><|assistant|>", "</s>"])
def test_control_words_typed_by_a_user_are_harmless_text(client: Client, text: str) -> None:
    answer = client.chat(f"what is {text} here", images=[OTHER], max_tokens=3).result()
    plain = client.chat("what is here", images=[OTHER], max_tokens=3).result()
    assert answer.usage.visual_tokens == plain.usage.visual_tokens
    assert answer.usage.prompt_tokens >= plain.usage.prompt_tokens + 3


@pytest.mark.parametrize(
    ("options", "field", "problem"),
    [
        ({"images": [b"neither a picture nor a film"]}, "messages[0].parts[0].image", "unknown format"),
        ({"images": [PICTURE, PICTURE[:500]]}, "messages[0].parts[1].image", "cut short"),
        ({"images": [b""]}, "messages[0].parts[0].image", "empty"),
        ({"videos": [film()[:900]]}, "messages[0].parts[0].video", "damaged"),
        ({"videos": [PICTURE]}, "messages[0].parts[0].video", "picture"),
        ({"images": [film()]}, "messages[0].parts[0].image", "film"),
    ],
)
def test_bad_media_is_refused_by_its_place(
    client: Client, options: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(BadMedia) as caught:
        client.chat("what is it?", **options).result()
    assert caught.value.field == field
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": 2.5}, "sampling.temperature"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"min_p": 1.5}, "sampling.min_p"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty"),
        ({"presence_penalty": -3.0}, "sampling.presence_penalty"),
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"stop": [""]}, "sampling.stop[0]"),
        ({"stop": ["x"] * 17}, "sampling.stop"),
        ({"images": [Image(PICTURE, max_tiles=0)]}, "messages[0].parts[0].image.options.max_tiles"),
        ({"videos": [Video(film(), frames=0)]}, "messages[0].parts[0].video.options.frames"),
        ({"videos": [Video(film(), start_s=99.0)]}, "messages[0].parts[0].video.options.start_s"),
        ({"messages": [assistant("hi"), user("ok")]}, "messages[0].role"),
        ({"messages": [user("hi"), user("ok")]}, "messages[1].role"),
    ],
)
def test_value_out_of_range_is_refused_by_its_field(
    client: Client, options: dict[str, Any], field: str
) -> None:
    question = () if "messages" in options else ("what is it?",)
    with pytest.raises(InvalidRequest) as caught:
        client.chat(*question, **options).result()
    assert caught.value.field == field


def test_prompt_over_the_context_is_refused_with_its_numbers(client: Client) -> None:
    text = "red circle " * 600
    plan = client.plan(text)
    assert not plan.fits
    with pytest.raises(ContextTooLong) as caught:
        client.chat(text).result()
    assert caught.value.field == "messages"
    assert {str(plan.prompt_tokens), str(CONTEXT)} <= set(re.findall(r"\d+", caught.value.message))


def test_picture_over_the_context_is_refused(client: Client) -> None:
    with pytest.raises(ContextTooLong):
        client.chat("all of them", images=[Image(PICTURE)] * 12).result()


def test_unknown_media_and_conversation_are_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="parts"):
        client.chat("what is it?", images=[Upload("0" * 64)]).result()
    with pytest.raises(NotFound, match="conversation"):
        client.conversation(conversation_id="none").say("hi").result()


def test_command_line_asks_about_files(system: System, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "b.mp4").write_bytes(film())
    address = system.addresses["gateway"]
    options = ("--address", address, "--max-tokens", "4", "--stats")
    run = internvl("chat", "-i", str(tmp_path / "a.png"), "-v", str(tmp_path / "b.mp4"), *options, "what?")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert re.search(r"\d+ prompt tokens \(84 visual", run.stderr)


def test_command_line_talks(system: System, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    typed = f"/image {tmp_path / 'a.png'}\nwhat is it?\nsure?\n/reset\nhello\n/quit\n"
    options = ("--address", system.addresses["gateway"], "--max-tokens", "3", "--stats")
    run = internvl("chat", *options, input=typed)
    assert run.returncode == 0, run.stderr
    visual = re.findall(r"\((\d+) visual", run.stderr)
    assert visual == ["52", "52", "0"]


def test_lost_service_ends_the_system_and_is_named(tiny_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    with started(tiny_model, log) as running:
        os.kill(running.pids["vision"], signal.SIGKILL)
        assert running.process.wait(30) == 1
    assert "vision ended by itself (signal 9)" in log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in running.pids.values())
