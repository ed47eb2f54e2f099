"""Who gets in, who waits, and who is refused with which numbers."""

from __future__ import annotations

import pytest

from internvl.errors import ConfigError, FailedPrecondition, Overloaded
from llm_service.engine.pace import Pace
from llm_service.engine.refusals import DeadlineTooSoon
from tests.unit.scheduler_samples import (
    BLOCK,
    Bench,
    answer,
    limits,
    request,
    text,
)


def test_blocks_are_promised_to_prompts_and_taken_when_written() -> None:
    bench = Bench(kv_blocks=20, step_token_budget=8)
    first = bench.submit(request(text(8 * BLOCK)))
    second = bench.submit(request(text(10 * BLOCK)))
    third = bench.submit(request(text(4)))
    assert bench.scheduler.running == (first, second)  # 9 and 11 blocks, with their next tokens
    assert bench.scheduler.waiting == (third,)
    assert bench.scheduler.blocks.used == 0
    bench.step()
    assert bench.scheduler.blocks.used == 2
    assert bench.scheduler.kv_tokens == 8


def test_several_answers_take_several_places() -> None:
    bench = Bench(max_running=4)
    first = bench.submit(request(n=3))
    second = bench.submit(request(n=2))
    assert bench.scheduler.running == (first,)
    bench.step()
    assert [one.choice for one in bench.scheduler.running] == [0, 1, 2]
    assert bench.scheduler.waiting == (second,)
    bench.scheduler.remove(first)
    assert bench.admit() == [second]
    with pytest.raises(ValueError, match="answer 9"):
        bench.scheduler.fork(first, 9)


def test_answers_share_their_prompt_and_copy_only_what_they_write() -> None:
    bench = Bench()
    bench.submit(request(text(2 * BLOCK + 1), max_tokens=3, n=3))
    bench.step()
    assert bench.scheduler.blocks.used == 3
    assert len(bench.step().copies) == 2  # the last one to write has the block to itself
    assert bench.scheduler.blocks.used == 5


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    bench = Bench(kv_blocks=250)
    message = "need 1008 tokens of KV cache, this server has 1000"
    with pytest.raises(FailedPrecondition, match=message) as refused:
        bench.submit(request(text(1000)))
    assert refused.value.metadata == {
        "kv_tokens": "1008",
        "kv_budget_tokens": "1000",
        "kv_blocks": "252",
        "kv_budget_blocks": "250",
        "kv_block_size": "4",
    }
    with pytest.raises(FailedPrecondition, match="n is 5, this server computes at most 4") as refused:
        bench.submit(request(n=5))
    assert refused.value.metadata == {"n": "5", "max_running": "4"}


def test_what_fits_exactly_runs_alone() -> None:
    wanted = request(text(6), max_tokens=14)
    assert Bench(kv_blocks=5).run_alone(wanted) == answer(wanted)


def test_a_queue_place_opens_only_when_nothing_can_start() -> None:
    bench = Bench(max_running=1, queue_limit=1)
    bench.submit(request())
    bench.submit(request())
    with pytest.raises(Overloaded) as refused:
        bench.submit(request())
    assert refused.value.metadata == {"queue_limit": "1"}
    assert refused.value.retry_after_s > 0
    with pytest.raises(Overloaded):
        bench.scheduler.check_queue()


def served_every(seconds: float) -> Bench:
    """One place, taken; and a queue in which a place was free so often."""
    bench = Bench(max_running=1)
    for _ in range(4):
        bench.submit(request())
    for _ in range(3):
        bench.now += seconds
        (running,) = bench.scheduler.running
        bench.scheduler.remove(running)
        bench.admit()
    return bench


def test_who_cannot_start_before_the_deadline_is_refused_at_once() -> None:
    bench = served_every(10)
    waiting = bench.submit(request(deadline=bench.now + 11))
    with pytest.raises(DeadlineTooSoon, match=r"in 20.0 s, the deadline is in 11.0 s") as refused:
        bench.submit(request(deadline=bench.now + 11))
    assert refused.value.reason == "DEADLINE_TOO_SOON"
    assert refused.value.retry_after_s == pytest.approx(10)
    assert refused.value.metadata == {"expected_wait_s": "20.000", "deadline_in_s": "11.000"}
    assert bench.scheduler.waiting == (waiting,)
    bench.submit(request(deadline=bench.now + 11, priority=9))  # goes before the one that waits


def test_no_deadline_is_refused_for_want_of_knowledge_or_while_a_place_is_free() -> None:
    bench = Bench(max_running=1)
    bench.submit(request(deadline=0.001))
    bench.submit(request(deadline=0.001))
    bench = served_every(10)
    bench.scheduler.remove(bench.scheduler.running[0])
    free = bench.submit(request(deadline=bench.now + 0.001))
    assert bench.scheduler.running == (free,)


def test_an_idle_hour_does_not_make_a_server_look_slow() -> None:
    bench = served_every(10)
    bench.scheduler.remove(bench.scheduler.running[0])
    bench.now += 3600
    for _ in range(2):
        bench.submit(request())
    bench.now += 10
    bench.scheduler.remove(bench.scheduler.running[0])
    bench.admit()
    assert bench.pace.retry_after_s == pytest.approx(10)


def test_pace_stays_within_bounds() -> None:
    pace = Pace()
    assert pace.retry_after_s == 1
    assert pace.expected_wait_s(5) == 0
    pace.wait(0)
    pace.start(0.2, 2)
    assert pace.expected_wait_s(1) == pytest.approx(0.2)
    assert pace.retry_after_s == 0.5
    for second in range(1000, 100_000, 1000):
        pace.start(second, 1)
    assert pace.retry_after_s == 60


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("--step-token-budget", {"max_running": 8, "step_token_budget": 8}),
        ("--kv-block-size", {"kv_blocks": 0}),
        ("--aging-seconds", {"aging_s": 0.0}),
        ("--decode-stretch", {"decode_stretch": 1.0}),
    ],
)
def test_limits_under_which_nothing_would_move_are_refused(flag: str, changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=flag):
        limits(**changes)
