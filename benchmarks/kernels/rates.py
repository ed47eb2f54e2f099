"""How work is timed, and what rows are made of it: a rate beside a limit of the processor, and a speedup."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.report import Row
from benchmarks.rounds import Rounds, Side


def rate_row(
    name: str, billions: float, unit: str, times: Rounds[Side], side: Side, limit: Side, against: str
) -> Row:
    """The rate of a side, and the share that it is of the limit in the same round; medians.

    Args:
        billions: of bytes or operations, in a run of the side.
        times: seconds of the side, and billions a second of the limit.
    """
    rates = [billions / seconds for seconds in times[side]]
    shares = [rate / most for rate, most in zip(rates, times[limit], strict=True)]
    return Row(name, statistics.median(rates), unit, against, statistics.median(shares))


def speedup_row(
    name: str, times: Rounds[Side], side: Side, plain: Side, against: str = "plain Paddle"
) -> Row:
    """How many times as fast as the plain side a side is."""
    speedup = times.ratio(plain, side)
    return Row(f"{name}_speedup", speedup, "x", against, speedup)


def seconds_of(work: Callable[[], object]) -> float:
    """By the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def repeated(work: Callable[[], object], run_s: float) -> Callable[[], float]:
    """A run of about `run_s` that does the work again and again; it tells the seconds of once."""

    def run(times: int) -> None:
        for _ in range(times):
            work()

    run(1)
    times = max(1, round(run_s / seconds_of(partial(run, 1))))
    return lambda: seconds_of(partial(run, times)) / times
