"""What the vision service does on this machine; five to seven minutes on two cores.

    python -m benchmarks.vision --json FILE

The service runs in a process of its own with its defaults; this process is its clients.
docs/performance-vision.md says what each number means.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from benchmarks.report import Row, add_report_flags, report
from benchmarks.vision.echo import running_echo
from benchmarks.vision.measures import first_tile, large_tower, plans, repeats, throughput
from benchmarks.vision.service import running_service
from internvl.telemetry import configure_logging


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--skip-large", action="store_true", help="leave out the tower of 300M parameters")
    add_report_flags(parser)
    args = parser.parse_args(argv)
    configure_logging("warning")
    report(list(_rows(args.skip_large)), args.json)


def _rows(skip_large: bool) -> Iterator[Row]:
    with running_service() as service, running_echo() as echo:
        yield from throughput(service)
        yield from first_tile(service)
        yield from repeats(service, echo)
        yield from plans(service, echo)
    if not skip_large:
        yield from large_tower()


if __name__ == "__main__":
    main()
