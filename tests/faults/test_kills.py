"""SIGKILL in the middle of things: the text is that of an undisturbed run, and every turn is stored once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.launcher.config import GATEWAY, LLM, VISION
from internvl.v1 import chat_service_pb2 as chat
from internvl.v1 import content_pb2, llm_service_pb2
from tests.faults.fleet import Fleet, running_fleet, text_of
from tests.unit.llm_samples import write_tiny_model
from tests.unit.media_samples import encoded, picture
from tests.unit.redis_server import RedisServer

TOKENS = 160
PICTURE = encoded(picture(300, 100))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that takes its time to see."""
    slow = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 12}
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", vision=slow)


@pytest.fixture(scope="module")
def fleet(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("store")
    with running_fleet(tiny, str(folder / "chat.db"), folder / "media") as running:
        yield running


def question(
    text: str, *shown: bytes, temperature: float = 0.0, tokens: int = TOKENS, **fields: object
) -> chat.ChatRequest:
    parts = [
        content_pb2.Part(image=content_pb2.Image(source=content_pb2.MediaSource(data=each))) for each in shown
    ]
    sampling = llm_service_pb2.SamplingParams(
        max_tokens=tokens, min_tokens=tokens, temperature=temperature, seed=7
    )
    message = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[*parts, content_pb2.Part(text=text)])
    return chat.ChatRequest(messages=[message], sampling=sampling, **fields)  # type: ignore[arg-type]


def stored_once(fleet: Fleet, conversation_id: str, *texts: str) -> None:
    """Each turn is there once, with the text that was streamed."""
    stored = fleet.fetch(conversation_id)
    assert stored.version == len(texts)
    answers = [m.parts[0].text for m in stored.messages if m.role == content_pb2.ROLE_ASSISTANT]
    assert answers == list(texts)


def kill_llm_at(fleet: Fleet, request: chat.ChatRequest, delta: int) -> list[chat.ChatResponse]:
    """Run a turn and kill the language replica that answers once so many deltas have come."""
    counter = "internvl_llm_generated_tokens_total"
    before = {name: fleet.metric(name, counter) for name in fleet.names(LLM)}
    killed: list[str] = []
    deltas = 0

    def watch(_: int, event: chat.ChatResponse) -> None:
        nonlocal deltas
        deltas += event.HasField("delta")
        if event.HasField("delta") and deltas == delta:
            killed.append(next(name for name in before if fleet.metric(name, counter) > before[name]))
            fleet.kill(killed[0])

    received = fleet.ask(request, watch)
    fleet.start(*killed)
    assert killed
    return received


def run_llm_kills(fleet: Fleet, points: list[int]) -> None:
    for number, point in enumerate(points):
        asked = {"temperature": 1.0 if number % 2 else 0.0}
        shown = (PICTURE,) if number % 3 == 0 else ()
        whole = text_of(fleet.ask(question(f"Question {number}?", *shown, **asked)))
        conversation_id = fleet.create()
        request = question(f"Question {number}?", *shown, conversation_id=conversation_id, **asked)
        received = kill_llm_at(fleet, request, point)
        assert text_of(received) == received[-1].result.message.parts[0].text == whole, point
        assert [event.event_id for event in received] == list(range(1, len(received) + 1))
        assert received[-1].result.usage.completion_tokens == TOKENS
        stored_once(fleet, conversation_id, whole)


def test_language_replica_killed_in_the_middle_of_an_answer(fleet: Fleet) -> None:
    before = fleet.metric(GATEWAY, "internvl_gateway_resumed_total")
    run_llm_kills(fleet, [1, 20])
    assert fleet.metric(GATEWAY, "internvl_gateway_resumed_total") > before


@pytest.mark.slow
def test_language_replica_killed_at_twenty_random_points(fleet: Fleet) -> None:
    before = fleet.metric(GATEWAY, "internvl_gateway_resumed_total")
    run_llm_kills(fleet, [random.randrange(1, TOKENS * 3 // 4) for _ in range(20)])
    assert fleet.metric(GATEWAY, "internvl_gateway_resumed_total") > before


def test_vision_replica_killed_in_the_middle_of_a_picture(fleet: Fleet) -> None:
    """Which of two replicas encodes is the gateway's choice: kill one, then the other, while they do."""
    made = 'internvl_gateway_retries_total{made="yes"}'
    before = fleet.metric(GATEWAY, made)
    for attempt in range(10):
        shown = [encoded(picture(1200, 900, seed=10 * attempt + number), "JPEG") for number in range(3)]
        for victim in fleet.names(VISION):
            conversation_id = fleet.create()
            killed: list[str] = []

            def watch(
                _: int, event: chat.ChatResponse, victim: str = victim, killed: list[str] = killed
            ) -> None:
                if event.HasField("encoding") and not killed:
                    fleet.kill(victim)
                    killed.append(victim)

            received = fleet.ask(question("Look.", *shown, tokens=24, conversation_id=conversation_id), watch)
            fleet.start(*killed)
            undisturbed = text_of(fleet.ask(question("Look.", *shown, tokens=24)))
            assert text_of(received) == undisturbed
            stored_once(fleet, conversation_id, undisturbed)
            if fleet.metric(GATEWAY, made) > before:
                return
    raise AssertionError("no replica was killed while it encoded")


def test_gateway_killed_between_turns(fleet: Fleet) -> None:
    texts = []
    for disturbed in (False, True):
        conversation_id = fleet.create()
        first = text_of(fleet.ask(question("First?", PICTURE, tokens=60, conversation_id=conversation_id)))
        if disturbed:
            fleet.kill(GATEWAY)
            fleet.start(GATEWAY)
        second = text_of(fleet.ask(question("Second?", tokens=60, conversation_id=conversation_id)))
        stored_once(fleet, conversation_id, first, second)
        texts.append((first, second))
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_turn_of_a_killed_gateway_is_asked_again_by_its_key_and_stored_once(fleet: Fleet) -> None:
    whole = text_of(fleet.ask(question("Again?")))
    conversation_id = fleet.create()
    request = question("Again?", conversation_id=conversation_id, idempotency_key="once")

    def watch(number: int, _: chat.ChatResponse) -> None:
        if number == 10:
            fleet.kill(GATEWAY)

    with pytest.raises(Exception, match="UNAVAILABLE"):
        fleet.ask(request, watch)
    fleet.start(GATEWAY)
    for _ in range(2):  # the first takes over when the dead gateway's claim runs out
        assert text_of(fleet.ask(request)) == whole
    stored_once(fleet, conversation_id, whole)


@pytest.mark.slow
def test_redis_restarted_and_a_gateway_killed_between_turns(tiny: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis, running_fleet(tiny, redis.url, tmp_path / "media") as fleet:
        conversation_id = fleet.create()
        first = text_of(fleet.ask(question("First?", tokens=60, conversation_id=conversation_id)))
        redis.kill()
        with pytest.raises(Exception, match="UNAVAILABLE"):
            fleet.ask(question("Second?", tokens=60, conversation_id=conversation_id))
        assert text_of(fleet.ask(question("Without a store."))) != ""
        redis.start()
        fleet.kill(GATEWAY)
        fleet.start(GATEWAY)
        second = text_of(fleet.ask(question("Second?", tokens=60, conversation_id=conversation_id)))
        stored_once(fleet, conversation_id, first, second)
