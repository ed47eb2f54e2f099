"""The same work on this project and on its peers, taking turns; about an hour on two cores.

    python -m benchmarks.peers --json FILE

The first run also builds an environment and writes a model for each peer below --cache, 35 GB in all. A run
with --record goes on where an earlier one stopped; --rounds 0 only reports. docs/performance-4b.md says what
each row means.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from benchmarks.peers.checkpoints import LAYERS, Checkpoints
from benchmarks.peers.contestants import FORMATS, PEERS, contestants, start_of
from benchmarks.peers.failures import NotRunError
from benchmarks.peers.pieces import PARTS
from benchmarks.peers.race import RaceConfig, run_race
from benchmarks.peers.record import Conditions, Record, processor
from benchmarks.peers.rows import rows_of
from benchmarks.report import add_report_flags, report
from internvl.user_cache import user_cache


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = _parser()
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)  # or the engine of the moment would be left behind
    checkpoints = Checkpoints(args.cache, args.layers, args.model)
    config = RaceConfig(args.cache / "logs", args.rounds, args.only, args.threads, args.timeout)
    field = contestants(args.formats, args.peers, ours=not args.skip_ours)
    try:
        model = args.model.resolve().name if args.model else ""
        record = Record(Conditions(args.layers, args.threads, model, processor()), args.record)
        run_race(config, field, record, lambda each: start_of(each, checkpoints, args.threads))
    except NotRunError as error:
        parser.error(str(error))
    report(rows_of(record), args.json)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_some_of(PARTS), default=PARTS, metavar="PART,...", help=f"parts: {','.join(PARTS)}")
    add("--peers", type=_some_of(PEERS), default=PEERS, metavar="PEER,...", help=f"of {','.join(PEERS)}")
    add(
        "--formats",
        type=_some_of(FORMATS),
        default=FORMATS,
        metavar="FORM,...",
        help=f"weight formats of ours: {','.join(FORMATS)}",
    )
    add("--skip-ours", action="store_true", help="run the peers alone")
    add("--rounds", type=int, default=3, metavar="N", help="turns of everybody; medians count (3)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="of each engine (all)")
    add("--layers", type=int, default=LAYERS, metavar="N", help=f"of the decoder ({LAYERS}); fewer to try it")
    add("--model", type=Path, metavar="DIR", help="an InternVL2-4B checkpoint in place of random weights")
    add(
        "--cache", type=Path, default=user_cache("peers"), metavar="DIR", help="environments, models and logs"
    )
    add("--record", type=Path, metavar="FILE", help="keep every measurement here, and go on from it")
    add("--timeout", type=float, default=1800.0, metavar="S", help="longest wait for one answer (1800)")
    add_report_flags(parser)
    return parser


def _some_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reads a list of known names."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such {unknown[0]!r}; known: {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    main()
