"""What all programs share: orders come in as lines of JSON, answers go out as lines of JSON.

Whatever an engine prints goes to standard error, because standard output is the answers'.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any, Protocol, runtime_checkable

from benchmarks.memory import peak_rss
from benchmarks.peers.orders import Arrivals, Order, PictureOrder, TextOrder, order_of


class Engine(Protocol):
    """An engine that has loaded its model. What it can do says which of the two below it is, or both."""

    def pids(self) -> list[int]:
        """Processes whose memory is the engine's; their children count too."""

    def close(self) -> None:
        """Stop."""


@runtime_checkable
class TextEngine(Protocol):
    """An engine that can be asked with text alone."""

    def text(self, order: TextOrder) -> Arrivals:
        """Answer prompts of text."""


@runtime_checkable
class PictureEngine(Protocol):
    """An engine that can be asked about pictures."""

    def picture(self, order: PictureOrder) -> Arrivals:
        """Answer three questions about a picture."""


class InProcess:
    """An engine that lives in the program's own process."""

    def pids(self) -> list[int]:
        """This process."""
        return [os.getpid()]

    def close(self) -> None:
        """Everything ends with the process."""


def serve(
    open_engine: Callable[[argparse.Namespace], tuple[str, Engine]], parser: argparse.ArgumentParser
) -> None:
    """Open an engine, say `ready`, then carry out orders until standard input ends.

    Args:
        open_engine: from flags to the version and an engine that is ready to answer.
    """
    parser.add_argument("--model", required=True, help="what to load")
    parser.add_argument("--threads", type=int, default=2, help="compute threads")
    args = parser.parse_args()
    answers = _take_standard_output()
    version, engine = open_engine(args)
    _say(answers, {"version": version})
    try:
        for line in sys.stdin:
            _say(answers, _carried_out(engine, json.loads(line)))
    finally:
        engine.close()


def _take_standard_output() -> IO[str]:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _say(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _carried_out(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    if asked["kind"] == "memory":
        return {"peak_bytes": peak_rss(engine.pids())}
    try:
        return {"arrivals": _arrivals(engine, order_of(asked))}
    except Exception as error:  # the race goes on with the next order
        return {"failed": f"{type(error).__name__}: {error}"}


def _arrivals(engine: Engine, order: Order) -> Arrivals:
    match order:
        case TextOrder() if isinstance(engine, TextEngine):
            return engine.text(order)
        case PictureOrder() if isinstance(engine, PictureEngine):
            return engine.picture(order)
    raise NotImplementedError(f"this engine takes no {order.kind} orders")
