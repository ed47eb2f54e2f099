"""How often the embedded model is right: held-out pictures and films, asked through the running services.

    python -m benchmarks.eval_nano [--door http] --json FILE

An answer counts when it equals the expected one to the letter. Conversations of two turns are real ones: the
second question is asked after the model's own first answer.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

from tqdm import tqdm

from benchmarks.doors import GRPC, HTTP, Door, open_door
from benchmarks.report import Row, add_report_flags, report
from deploy.launcher import LaunchConfig, launch
from internvl.model_choice import add_weight_flags, weights_of
from models.recipe.heldout import SKILLS, Case, heldout_cases

TARGET_OVERALL, TARGET_SKILL = 0.93, 0.85


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    args = _parse(argv)
    with _server(args) as address, open_door(args.door, address) as door:
        outcomes = list(_answers(door, heldout_cases(args.per_skill, tuple(args.skills)), args))
    for case, answer in islice((o for o in outcomes if not _right(*o)), args.show_wrong):
        print(f"{case.skill} #{case.number}: {case.turns[-1][0]!r} -> {answer!r}, expected {case.expected!r}")
    report(_rows(outcomes), args.json)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eval_nano", description=__doc__)
    parser.add_argument("--door", choices=(GRPC, HTTP), default=GRPC, help="how the gateway is asked (grpc)")
    parser.add_argument(
        "--address",
        help="a running gateway, or the base URL of its HTTP API; without it the services are started here",
    )
    parser.add_argument(
        "--per-skill", type=int, default=200, metavar="N", help="held-out cases of each skill (200)"
    )
    parser.add_argument("--skills", nargs="+", choices=tuple(SKILLS), default=tuple(SKILLS), metavar="SKILL")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="conversations at a time (8)")
    parser.add_argument("--show-wrong", type=int, default=20, metavar="N", help="wrong answers to print (20)")
    add_weight_flags(parser)
    add_report_flags(parser)
    return parser.parse_args(argv)


@contextmanager
def _server(args: argparse.Namespace) -> Iterator[str]:
    if args.address:
        yield args.address
        return
    with launch(LaunchConfig(ports=None, weights=weights_of(args))) as stack:
        yield stack.http_url if args.door == HTTP else stack.gateway_address


def _answers(door: Door, cases: Iterable[Case], args: argparse.Namespace) -> Iterator[tuple[Case, str]]:
    total = args.per_skill * len(args.skills)
    with ThreadPoolExecutor(args.concurrency) as pool:
        jobs = pool.map(lambda case: (case, last_answer(door, case)), cases)
        yield from tqdm(jobs, total=total, unit="case", desc="held-out cases")


def last_answer(door: Door, case: Case) -> str:
    """Ask every turn of a case in one conversation; the media go with the first."""
    return door.last_answer([question for question, _ in case.turns], case.media)


def _right(case: Case, answer: str) -> bool:
    return answer.strip() == case.expected


def _rows(outcomes: Sequence[tuple[Case, str]]) -> list[Row]:
    by_skill: dict[str, list[bool]] = defaultdict(list)
    for case, answer in outcomes:
        by_skill[case.skill].append(_right(case, answer))
    shares = {skill: sum(right) / len(right) for skill, right in by_skill.items()}
    overall = sum(map(sum, by_skill.values())) / len(outcomes)
    lowest = min(shares.values())
    return [
        Row("exact_match_overall", overall, "share", f"target {TARGET_OVERALL}", overall / TARGET_OVERALL),
        Row("exact_match_min_skill", lowest, "share", f"target {TARGET_SKILL}", lowest / TARGET_SKILL),
        *(Row(f"exact_match_{skill}", share, "share") for skill, share in shares.items()),
    ]


if __name__ == "__main__":
    main()
