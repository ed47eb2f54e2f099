"""Attempts to be answered about another picture than one's own; over real gRPC.

Questions have the same ids and sizes and differ in pixels only. Every answer is compared, log-probabilities
and all, with that of a service which never saw anything else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from tests.contract.llm_client import Service
from tests.equality import wrong_pictures
from tests.equality.wrong_pictures import NAMES, FreshAnswers, Question, ask, exact_service
from tests.unit.event_loop import bounded
from tests.unit.llm_samples import write_tiny_model

LONG_TEXT = "the same words stand before every picture " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def fresh(folder: Path) -> FreshAnswers:
    return FreshAnswers(folder)


async def assert_all_right(service: Service, fresh: FreshAnswers, questions: Iterable[Question]) -> None:
    """Ask all at once."""
    async with asyncio.TaskGroup() as clients:
        for question in questions:
            clients.create_task(assert_right(service, fresh, question))


async def assert_right(service: Service, fresh: FreshAnswers, question: Question) -> int:
    """Ask; the prompt tokens that came from the cache."""
    reply = await ask(service, question)
    assert reply.content == await fresh.of(question), question
    return reply.cached_tokens


def preemptions() -> float:
    return REGISTRY.get_sample_value("internvl_llm_preemptions_total") or 0


@bounded
async def test_every_picture_has_an_answer_of_its_own(fresh: FreshAnswers) -> None:
    """Or nothing below shows anything."""
    answers = [await fresh.of(Question((name,))) for name in NAMES]
    answers += [await fresh.of(Question(two)) for two in (("a", "b"), ("b", "a"), ("a", "a"))]
    answers += [await fresh.of(Question(("a",), salt="other"))]
    assert len(set(answers)) == len(answers)


@bounded
async def test_the_comparison_notices_a_wrong_picture(
    folder: Path, fresh: FreshAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that gives two pictures one name gets the first one's answer twice."""
    real = wrong_pictures.pixels
    async with exact_service(folder, 200) as service:
        first = await ask(service, Question(("a",)))
        monkeypatch.setattr(wrong_pictures, "pixels", lambda name, index, salt: real("b", index, salt))
        second = await ask(service, Question(("a",)))
    assert second.cached_tokens > 0
    assert second.content == first.content == await fresh.of(Question(("a",)))


@bounded
async def test_one_after_the_other_and_again(folder: Path, fresh: FreshAnswers) -> None:
    async with exact_service(folder) as service:
        for _ in range(2):
            hits = [await assert_right(service, fresh, Question((name,))) for name in NAMES]
    assert all(hits)


@bounded
async def test_swapped_and_repeated(folder: Path, fresh: FreshAnswers) -> None:
    orders = [("a", "b"), ("b", "a"), ("a", "a"), ("b", "b"), ("a", "ab"), ("ab", "a"), ("a",), ("a", "b")]
    async with exact_service(folder) as service:
        for pictures in orders:
            await assert_right(service, fresh, Question(pictures))


@bounded
async def test_behind_the_same_text(folder: Path, fresh: FreshAnswers) -> None:
    """Their first blocks are shared for good reason; those with pictures must not be."""
    async with exact_service(folder) as service:
        hits = [await assert_right(service, fresh, Question((name,), before=LONG_TEXT)) for name in NAMES[:6]]
    assert hits[0] == 0
    assert all(hits[1:])


@bounded
async def test_at_once(folder: Path, fresh: FreshAnswers) -> None:
    questions = [Question((name,), before=LONG_TEXT) for name in NAMES[:6]] * 2
    await fresh.know(questions)
    async with exact_service(folder) as service:
        await assert_all_right(service, fresh, questions)


@bounded
async def test_evicted_and_back(folder: Path, fresh: FreshAnswers) -> None:
    """There is room for two or three pictures; the cache forgets one for every one that comes."""
    questions = [Question((name,)) for name in NAMES]
    async with exact_service(folder, 30) as service:
        for question in [*questions, *questions, *(again for one in questions for again in (one, one))]:
            await assert_right(service, fresh, question)


@bounded
async def test_preempted_and_back(folder: Path, fresh: FreshAnswers) -> None:
    questions = [Question((name, "b"), tokens=30, priority=at % 3) for at, name in enumerate(NAMES[:6])]
    before = preemptions()
    await fresh.know(questions)
    async with exact_service(folder, 60) as service:
        for _ in range(2):
            await assert_all_right(service, fresh, questions)
    assert preemptions() > before


@bounded
async def test_salts_keep_tenants_apart(folder: Path, fresh: FreshAnswers) -> None:
    """Two tenants have a picture of the same name, with other pixels."""
    salts = ("", "one", "two", "on", "e")
    async with exact_service(folder) as service:
        for _ in range(2):
            hits = [await assert_right(service, fresh, Question(("a",), salt=salt)) for salt in salts]
    assert all(hits)


@pytest.mark.parametrize("seed", range(3))
@bounded
async def test_anything_at_any_time(folder: Path, fresh: FreshAnswers, seed: int) -> None:
    chance = random.Random(seed)
    questions = [
        Question(
            pictures=tuple(chance.choices(("a", "ab", "b"), k=chance.randint(1, 2))),
            before=chance.choice(("", LONG_TEXT)),
            salt=chance.choice(("", "one")),
        )
        for _ in range(60)
    ]
    await fresh.know(questions)
    async with exact_service(folder, chance.choice((80, 120, 400))) as service:
        for start in range(0, len(questions), 6):
            await assert_all_right(service, fresh, questions[start : start + 6])
