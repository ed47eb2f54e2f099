"""Through all three services: what was seen once is neither encoded nor shipped again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from internvl_client import Answer, Client, Event, Image, Progress, Started
from tests.e2e.conftest import System
from tests.unit.media_samples import encoded, picture

PICTURE = encoded(picture(310, 100, seed=7))


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(system.addresses["gateway"], timeout=60) as connected:
        yield connected


def tiles_encoded(events: list[Event]) -> int:
    return sum(isinstance(event, Progress) for event in events)


def test_a_second_turn_about_a_picture_encodes_nothing(client: Client) -> None:
    # Short, so that both turns are on the same side of the tiny model's rope limit.
    conversation = client.conversation(system="Be brief.")
    first = list(conversation.say("What is it?", images=[Image(PICTURE, max_tiles=4)], max_tokens=6).events())
    second = list(conversation.say("Are you sure?", max_tokens=6).events())
    started, answer = second[0], second[-1]
    assert isinstance(started, Started)
    assert isinstance(answer, Answer)
    assert (tiles_encoded(first), tiles_encoded(second)) == (4, 0)
    assert started.cached_tokens > answer.usage.visual_tokens
    assert answer.usage.cached_tokens == started.cached_tokens


def test_the_same_question_again_is_answered_the_same_from_the_cache(client: Client) -> None:
    options = {"images": [PICTURE], "max_tokens": 12, "temperature": 1.0, "seed": 3, "logprobs": 1}
    fresh, again = (list(client.chat("Describe it.", **options).events()) for _ in range(2))  # type: ignore[arg-type]
    assert tiles_encoded(again) == 0
    old, new = fresh[-1], again[-1]
    assert isinstance(old, Answer)
    assert isinstance(new, Answer)
    assert new.usage.cached_tokens > 0
    assert new.token_ids == old.token_ids
    assert len(new.logprobs) == len(new.token_ids)
