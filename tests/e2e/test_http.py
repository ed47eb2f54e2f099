"""The HTTP door of the whole system with the embedded model, asked by the tools that people point at it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from PIL import Image as Pillow
from pydantic import BaseModel

from benchmarks.doors import GrpcDoor, HttpDoor
from benchmarks.eval_nano import last_answer
from deploy.launcher import LaunchConfig, Stack, launch
from internvl_client import Client, Image
from models.recipe.heldout import heldout_cases

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
SHAPES = (NANO / "demo" / "shapes.png").read_bytes()
STARS = (NANO / "demo" / "stars.png").read_bytes()
QUESTION = "Describe the image."
ANSWER = "a red circle, a blue square and a green star"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with launch(LaunchConfig(ports=None)) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.http_url, api_key="none") as connected:
        yield connected


@pytest.fixture(scope="module")
def grpc_client(stack: Stack) -> Iterator[Client]:
    with Client(stack.gateway_address, timeout=60) as connected:
        yield connected


def image(data: bytes, kind: str = "png", **options: Any) -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **options}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*content: Any) -> list[Any]:
    return [{"role": "user", "content": list(content)}]


def test_picture_is_described(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    answer = client.chat.completions.create(model=model.id, messages=user(text(QUESTION), image(SHAPES)))
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"


def test_stream_says_the_same_and_counts_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "nano", "messages": user(text(QUESTION), image(SHAPES))}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    counted, streamed = whole.usage, chunks[-1].usage
    assert counted is not None
    assert streamed is not None
    assert (counted.prompt_tokens, counted.completion_tokens) == (
        streamed.prompt_tokens,
        streamed.completion_tokens,
    )
    assert streamed.prompt_tokens_details is not None
    assert 0 < (streamed.prompt_tokens_details.cached_tokens or 0) < streamed.prompt_tokens


def test_several_answers_repeat_with_their_seed(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="nano",
            messages=user(text("zq")),
            n=3,
            seed=seed,
            temperature=2,
            max_tokens=8,
            logprobs=True,
        )
        assert all(choice.logprobs and choice.logprobs.content for choice in answer.choices)
        return [choice.message.content for choice in answer.choices]

    assert ask(7) == ask(7)
    assert ask(7) != ask(8)


def test_log_probabilities_spell_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="nano", messages=user(text(QUESTION), image(SHAPES)), logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert b"".join(bytes(item.bytes or ()) for item in logprobs.content).decode().strip() == ANSWER
    assert all(item.top_logprobs[0].logprob >= item.logprob for item in logprobs.content)
    assert all(len(item.top_logprobs) == 3 for item in logprobs.content)


def test_answer_keeps_to_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": ["one", "four"]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="nano",
        messages=user(text("How many stars are there?"), image(STARS)),
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "count", "strict": True, "schema": schema},
        },
    )
    assert json.loads(answer.choices[0].message.content or "")["n"] in ("one", "four")


def test_errors_arrive_as_the_clients_own_classes(client: openai.OpenAI) -> None:
    def refused(kind: type[openai.APIStatusError], param: str | None, **asked: Any) -> None:
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**{"model": "nano", "messages": user(text("hi")), **asked})
        assert caught.value.param == param

    refused(openai.NotFoundError, None, model="gpt-4o")
    refused(openai.BadRequestError, "temperature", temperature=2.5)
    refused(openai.BadRequestError, "stop[0]", stop=[""])
    refused(openai.BadRequestError, "tools", tools=[{"type": "function", "function": {"name": "f"}}])
    refused(openai.BadRequestError, "messages", messages=user(text("red circle " * 9000)))
    refused(openai.BadRequestError, "messages[0].content[0].image_url", messages=user(image(SHAPES[:500])))
    zero_tiles = user(text("hi"), image(SHAPES, max_dynamic_patch=0))
    refused(openai.BadRequestError, "messages[0].content[1].image_url.max_dynamic_patch", messages=zero_tiles)


def test_asynchronous_client_asks_many_at_once_and_leaves(stack: Stack) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=stack.http_url, api_key="none") as caller:
            asked: Any = {"model": "nano", "messages": user(text(QUESTION), image(SHAPES))}
            answers = await asyncio.gather(*(caller.chat.completions.create(**asked) for _ in range(6)))
            assert {answer.choices[0].message.content for answer in answers} == {ANSWER}
            for _ in range(8):
                stream = await caller.chat.completions.create(**asked, stream=True)
                async for _ in stream:
                    break
                await stream.close()
            assert (await caller.chat.completions.create(**asked)).choices[0].message.content == ANSWER

    asyncio.run(asyncio.wait_for(run(), 120))


def test_responses_keep_what_was_said(client: openai.OpenAI) -> None:
    shown = f"data:image/png;base64,{base64.b64encode(STARS).decode()}"
    content: Any = [
        {"type": "input_text", "text": "How many stars are there?"},
        {"type": "input_image", "image_url": shown, "detail": "auto"},
    ]
    first = client.responses.create(model="nano", input=[{"role": "user", "content": content}])
    second = client.responses.create(
        model="nano", input="And how many hearts?", previous_response_id=first.id
    )
    assert (first.output_text, second.output_text) == ("four", "two")
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 0
    with client.responses.stream(
        model="nano", input="And how many hearts?", previous_response_id=first.id
    ) as stream:
        assert stream.get_final_response().output_text == "two"


class Count(BaseModel):
    stars: Literal["one", "four"]


def test_langchain_shows_pictures_and_gets_structure(stack: Stack) -> None:
    model = ChatOpenAI(base_url=stack.http_url, api_key="none", model="nano", temperature=0)  # type: ignore[arg-type]
    message = HumanMessage([text(QUESTION), image(SHAPES)])
    assert model.invoke([message]).content == ANSWER
    assert "".join(str(chunk.content) for chunk in model.stream([message])) == ANSWER
    counted = model.with_structured_output(Count, method="json_schema", strict=True)
    about = HumanMessage([text("How many stars are there?"), image(STARS)])
    assert isinstance(counted.invoke([about]), Count)


@pytest.mark.parametrize("most", [6, 12])
def test_vlmevalkit_is_answered_as_over_grpc(client: openai.OpenAI, grpc_client: Client, most: int) -> None:
    """Text first, then JPEGs with `max_dynamic_patch` beside their URL; n 1, temperature 0, 16,384 tokens."""
    buffer = BytesIO()
    Pillow.open(BytesIO(SHAPES)).convert("RGB").save(buffer, "JPEG")
    shown = image(buffer.getvalue(), "jpeg", max_dynamic_patch=most)
    answer = client.chat.completions.create(
        model="nano", messages=user(text(QUESTION), shown), n=1, temperature=0, max_tokens=16384, stream=False
    )
    over_grpc = grpc_client.chat(
        QUESTION, images=[Image(buffer.getvalue(), max_tiles=most)], temperature=0
    ).result()
    assert answer.choices[0].message.content == over_grpc.text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == over_grpc.usage.prompt_tokens


def test_lmms_eval_is_answered_as_over_grpc(client: openai.OpenAI, grpc_client: Client) -> None:
    """Text, then PNGs; few tokens."""
    question = "Which image has more circles?"
    shown = [(NANO / "demo" / name).read_bytes() for name in ("few_circles.png", "many_circles.png")]
    answer = client.chat.completions.create(
        model="nano", messages=user(text(question), *map(image, shown)), max_tokens=16, temperature=0
    )
    over_grpc = grpc_client.chat(question, images=shown, max_tokens=16, temperature=0).result()
    assert answer.choices[0].message.content == over_grpc.text == "the second image"


def test_evaluation_through_both_doors_gives_the_same_answers(stack: Stack, grpc_client: Client) -> None:
    skills = ("caption", "small_text", "compare_images", "video_motion", "second_turn", "small_talk")
    over_grpc, over_http = GrpcDoor(grpc_client), HttpDoor(stack.http_url)
    for case in heldout_cases(2, skills):
        assert last_answer(over_http, case) == last_answer(over_grpc, case), case.skill
