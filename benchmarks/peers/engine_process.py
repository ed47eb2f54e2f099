"""One engine in a process of its own: started, given orders, stopped, and its memory given back."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.peers.contestants import Start
from benchmarks.peers.environments import reason
from benchmarks.peers.failures import NotRunError
from benchmarks.peers.orders import Arrivals, Order, message_of

_STOP_S = 30.0


class EngineProcess:
    """A running program of `benchmarks.peers.programs`.

    Attributes:
        version: of the engine.
        ready_s: from the start of its program, imports included, until it was ready to answer.
    """

    def __init__(self, start: Start, log: Path, timeout_s: float) -> None:
        """Start it and wait until it is ready.

        Raises:
            NotRunError: it ended, or was not ready in time; tells the end of what it wrote.
        """
        self._log = log
        self._timeout_s = timeout_s
        began = time.perf_counter()
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                start.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=start.path[0],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, start.path))} | start.variables,
                start_new_session=True,
            )
        try:
            ready = self._answer()
        except NotRunError:
            self.stop()
            raise
        self.version: str = ready["version"]
        self.ready_s = time.perf_counter() - began

    def run(self, order: Order) -> Arrivals:
        """Carry out an order.

        Raises:
            NotRunError: it failed, ended, or took too long.
        """
        answer = self._ask(message_of(order))
        if "failed" in answer:
            raise NotRunError(answer["failed"])
        arrivals: Arrivals = answer["arrivals"]
        return arrivals

    def peak_bytes(self) -> int:
        """Most memory it has held.

        Raises:
            NotRunError: it ended.
        """
        return int(self._ask({"kind": "memory"})["peak_bytes"])

    def stop(self) -> None:
        """End it and all that it started."""
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._process.stdin:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
        except (OSError, ValueError):  # a broken pipe, or one that is closed
            raise NotRunError(f"it ended: {reason(self._log)}") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        output = self._process.stdout
        if output is None or not select.select([output], [], [], self._timeout_s)[0]:
            raise NotRunError(f"no answer within {self._timeout_s:.0f} s")
        line = output.readline()
        if not line:
            raise NotRunError(f"it ended: {reason(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running(start: Start, log: Path, timeout_s: float) -> Iterator[EngineProcess]:
    """An engine that ends with the block.

    Raises:
        NotRunError: as `EngineProcess`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = EngineProcess(start, log, timeout_s)
    try:
        yield process
    finally:
        process.stop()
