"""What a step holds, and who stands back; `test_scheduler_traffic.py` has it all at once."""

from __future__ import annotations

from llm_service.engine.sequence import Sequence
from llm_service.engine.step import Share, Step
from tests.unit.scheduler_samples import (
    BLOCK,
    ROPE_LIMIT,
    Bench,
    answer,
    request,
    send_tiles,
    text,
    tile_keys,
)


def shares(step: Step) -> dict[Sequence, int]:
    return {share.sequence: share.tokens for share in step.shares}


def truth(sequence: Sequence, most: int) -> tuple[int, ...]:
    """A guess that is always right."""
    return tuple(answer(sequence.request, sequence.choice)[len(sequence.generated) :][:most])


def test_decodes_share_a_step_with_a_long_prefill() -> None:
    bench = Bench(step_token_budget=8)
    short = bench.submit(request(text(2)))
    bench.step()
    long = bench.submit(request(text(60)))
    assert shares(bench.step()) == {short: 1, long: 7}


def test_a_stalled_prefill_leaves_its_share_to_others() -> None:
    bench = Bench(step_token_budget=8)
    stalled = bench.submit(request(text(3), tile_keys("a", 1)), with_tiles=False)
    other = bench.submit(request(text(20)))
    assert shares(bench.step()) == {stalled: 1, other: 7}
    assert shares(bench.step()) == {other: 8}
    assert stalled.is_stalled


def test_nothing_to_do_is_said_so() -> None:
    bench = Bench()
    stalled = bench.submit(request(text(3), tile_keys("a", 1)), with_tiles=False)
    bench.step()
    assert not bench.scheduler.has_work
    assert bench.step() == Step()
    send_tiles(stalled)
    assert bench.scheduler.has_work


def test_a_short_prompt_goes_before_a_long_one_until_that_has_waited() -> None:
    bench = Bench(step_token_budget=8, aging_s=10)
    long = bench.submit(request(text(60)))
    bench.now = 5
    short = bench.submit(request(text(8)))
    assert shares(bench.step()) == {short: 8}
    bench.now = 12  # the long one is a level older than what comes now
    late = bench.submit(request(text(8, 2)))
    assert shares(bench.step()) == {short: 1, long: 7}
    assert late.computed == 0


def test_prefill_keeps_to_what_steps_have_taken() -> None:
    bench = Bench(step_token_budget=100, kv_blocks=200)
    decoding = bench.submit(request(text(8), max_tokens=50))
    bench.scheduler.observe(bench.step(), 0.008)  # a millisecond a token
    bench.scheduler.observe(bench.step(), 0.010)  # a decode is worth ten
    long = bench.submit(request(text(90)))
    assert shares(bench.step()) == {decoding: 1, long: 12}  # 15 ms more, in whole blocks


def test_guesses_leave_prefill_a_block() -> None:
    bench = Bench(truth, step_token_budget=8, draft_tokens=8)
    decoding = bench.submit(request(text(3), max_tokens=30))
    bench.step()
    long = bench.submit(request(text(30)))
    step = bench.step()
    assert [len(share.drafts) for share in step.shares if share.sequence is decoding] == [8 - 1 - BLOCK]
    assert shares(step)[long] == BLOCK


def test_right_guesses_give_many_tokens_a_step() -> None:
    bench = Bench(truth, draft_tokens=4)
    guessed = bench.submit(request(text(3), max_tokens=12))
    lengths = []
    while bench.scheduler.has_work:
        bench.step()
        lengths.append(len(guessed.generated))
    assert lengths == [
        1,
        6,
        11,
        12,
    ]  # the last token is sampled, never guessed
    assert guessed.generated == answer(guessed.request)


def test_guesses_never_cross_the_rope_limit() -> None:
    asked: list[int] = []

    def watch(sequence: Sequence, most: int) -> tuple[int, ...]:
        asked.append(sequence.length + most)
        return truth(sequence, most)

    bench = Bench(watch, draft_tokens=5)
    crossing = bench.submit(request(text(ROPE_LIMIT - 4), max_tokens=12))
    bench.run()
    assert ROPE_LIMIT in asked
    assert ROPE_LIMIT + 1 not in asked
    assert bench.recomputes == 1
    assert bench.answers[crossing.request, 0] == answer(crossing.request)


def test_guesses_take_only_blocks_that_nobody_waits_for() -> None:
    bench = Bench(truth, kv_blocks=8, draft_tokens=6, step_token_budget=12)
    decoding = bench.submit(request(text(4), max_tokens=20))
    bench.step()  # it has a block, and is about to write a second one
    bench.submit(request(text(22, 2), max_tokens=1))  # is promised the six others
    (share, _) = bench.step().shares
    assert share.sequence is decoding
    assert len(share.drafts) == BLOCK - 1  # what is left of its own block
    assert bench.scheduler.preemptions == 0


def test_completing_a_share_counts_only_what_was_accepted() -> None:
    bench = Bench(lambda sequence, most: (99,) * most, draft_tokens=6)
    sequence = bench.submit(request(text(5)))
    bench.step()
    step = bench.scheduler.schedule(0, bench.draft)
    assert [len(share.drafts) for share in step.shares] == [6]
    assert len(sequence.blocks) == 3
    bench.scheduler.complete(Share(sequence, 1, step.shares[0].drafts), [4])
    assert (sequence.computed, len(sequence.blocks)) == (6, 2)


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    bench = Bench(kv_blocks=20)
    first, large, small = (bench.submit(request(text(length))) for length in (50, 60, 1))
    assert bench.scheduler.waiting == (large, small)
    bench.scheduler.remove(first)
    assert bench.admit() == [large, small]


def test_priority_goes_first_and_age_catches_up() -> None:
    bench = Bench(max_running=1, aging_s=10)
    bench.submit(request())
    old = bench.submit(request())
    bench.now = 5
    important = bench.submit(request(priority=1))
    bench.now = 15
    late = bench.submit(request(priority=1))  # a level is ten seconds, and the old one has waited fifteen
    assert bench.scheduler.waiting == (important, old, late)


def test_preempts_the_least_important_then_the_youngest() -> None:
    bench = Bench(kv_blocks=14, max_running=4, prefix_cache=False)
    wanted = [request(text(8, token), max_tokens=20, priority=token == 3) for token in range(1, 5)]
    one, two, three, four = (bench.submit(each) for each in wanted)
    order = []
    for _ in range(60):
        before = set(bench.scheduler.running)
        bench.step()
        order += [sequence for sequence in bench.scheduler.waiting if sequence in before]
        if (three.request, 0) in bench.answers:
            break
    assert order[:2] == [four, two]
    assert one not in order[:2]
    assert three not in order
    bench.run()
    assert [bench.answers[each, 0] for each in wanted] == [answer(each) for each in wanted]


def test_a_preempted_request_comes_back_before_younger_ones_with_all_it_had() -> None:
    bench = Bench(kv_blocks=8, max_running=2)
    bench.submit(request(text(6, 1), max_tokens=20))
    victim = bench.submit(request(text(3, 2), tile_keys("a", 1), max_tokens=15))
    younger = bench.submit(request(text(3)))
    for _ in range(10):
        bench.step()
    assert bench.scheduler.preemptions == 1
    assert bench.scheduler.waiting == (victim, younger)
    assert (victim.computed, victim.blocks) == (0, [])
    assert victim.generated == answer(victim.request)[: len(victim.generated)] != []
    assert victim.missing is None  # nobody has to send its tiles again
    bench.run()
    assert bench.answers[victim.request, 0] == answer(victim.request)


def test_a_shared_block_with_no_room_for_its_copy_costs_the_last_answer_its_place() -> None:
    bench = Bench(kv_blocks=3, max_running=3)
    first = bench.submit(request(text(2 * BLOCK + 1), max_tokens=3, n=3))
    bench.step()
    assert bench.scheduler.blocks.available == 0
    assert {one.choice for one in bench.scheduler.running} == {0, 1, 2}
    bench.step()  # the three write into one block, and there is none to copy it to
    assert bench.scheduler.preemptions == 2
    assert bench.scheduler.running == (first,)
    bench.run()
    for choice in range(3):
        assert bench.answers[first.request, choice] == answer(first.request, choice)
