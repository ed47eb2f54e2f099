"""What the language engine does with the embedded model on this machine; three minutes on two quiet cores.

    python -m benchmarks.engine --json FILE
    python -m benchmarks.engine --only steps --only speculation

The three services are started first, for what a user sees and to have pictures encoded; then the engine runs
alone, in this process. docs/performance.md says what each number means.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from benchmarks.engine.drawings import Drawing, drawings
from benchmarks.engine.interference import Interference
from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig
from benchmarks.engine.services import ServiceTurns
from benchmarks.engine.speculation import Speculation
from benchmarks.engine.steps import StepCosts
from benchmarks.engine.throughput import STREAMS, Mix
from benchmarks.engine.turns import EngineTurns
from benchmarks.engine.visuals import Visual
from benchmarks.report import Row, add_report_flags, report
from deploy.launcher import LaunchConfig, launch
from internvl.telemetry import configure_logging
from llm_service.config import parse_config
from llm_service.loading import open_model

_CAPTIONS = 12
_PARTS = ("services", "mix", "steps", "interference", "turns", "speculation")


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=_PARTS, metavar="PART", help=f"measure only {', '.join(_PARTS)}"
    )
    add_report_flags(parser)
    args = parser.parse_args(argv)
    configure_logging("warning")
    report(list(_rows(args.only or _PARTS)), args.json)


def _rows(wanted: Collection[str]) -> Iterator[Row]:
    drawn = drawings(max(STREAMS))
    with launch(LaunchConfig(ports=None)) as stack:
        services = ServiceTurns(stack)
        if "services" in wanted:
            yield from services.rows()
        visuals = services.visuals(drawn)
    yield from _engine_rows(drawn, visuals, wanted)


def _engine_rows(
    drawn: Sequence[Drawing], visuals: Sequence[Visual], wanted: Collection[str]
) -> Iterator[Row]:
    model = open_model(parse_config([]).model)
    writer = PromptWriter(model)
    pairs = list(zip(drawn, visuals, strict=True))
    asked = [Question(visual, drawing.questions[0]) for drawing, visual in pairs]
    captions = [Question(visual, drawing.caption) for drawing, visual in pairs[:_CAPTIONS]]
    rig = Rig(model)
    wall, cpu = time.perf_counter(), time.process_time()
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "mix": Mix(rig, writer, asked).rows,
        "steps": StepCosts(rig, writer, asked).rows,
        "interference": Interference(rig, writer, asked).rows,
        "turns": EngineTurns(rig, writer, asked).rows,
        "speculation": lambda: Speculation(model, writer, captions).rows(),  # has engines of its own
    }
    for name, measure in parts.items():
        if name in wanted:
            yield from measure()
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    yield Row("machine_quiet", share, "share", "1: the engine had a core to itself all the time")


if __name__ == "__main__":
    main()
