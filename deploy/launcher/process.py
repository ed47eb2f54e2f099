"""One running service: its process, its log and its end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from deploy.launcher.config import Service

Log = Callable[[str, str], None]
"""Takes the name of a service and one line of its log."""

_LAST_LINES = 20
_RELAY_TIMEOUT_S = 1.0


class ServiceProcess:
    """A started service. It has a process group of its own, so that Ctrl-C reaches the launcher alone.

    Attributes:
        service: what was started.
    """

    def __init__(self, service: Service, log: Log, ended: queue.Queue[ServiceProcess]) -> None:
        """Start it.

        Args:
            service: what to start.
            log: takes every line that it writes.
            ended: takes this object when the process ends, for whatever reason.
        """
        self.service = service
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("orphan.py")), *service.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
            start_new_session=True,
        )
        self._relay = _thread(lambda: self._pass_on(log))
        _thread(lambda: self._announce_end(ended))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    @property
    def last_lines(self) -> str:
        """The end of its log."""
        self._relay.join(_RELAY_TIMEOUT_S)
        return "\n".join(self._last_lines)

    def terminate(self) -> None:
        """Ask it to drain and stop."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end and that of its log; kill it and whatever it started when the time is up."""
        try:
            self._process.wait(timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._relay.join(_RELAY_TIMEOUT_S)

    def _pass_on(self, log: Log) -> None:
        output: IO[str] | None = self._process.stdout
        for line in output or ():
            self._last_lines.append(line.rstrip("\n"))
            # A log that cannot be written must not stop a service: it would block once the pipe is full.
            with suppress(OSError):
                log(self.service.name, line.rstrip("\n"))

    def _announce_end(self, ended: queue.Queue[ServiceProcess]) -> None:
        self._process.wait()
        ended.put(self)


@contextmanager
def log_to_directory(directory: Path) -> Iterator[Log]:
    """Write each service's lines to `NAME.log` in a directory.

    Raises:
        OSError: it cannot be created.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, IO[str]] = {}

    def log(name: str, line: str) -> None:
        if name not in files:
            files[name] = (directory / f"{name}.log").open("a", encoding="utf-8")
        print(line, file=files[name], flush=True)

    try:
        yield log
    finally:
        for file in files.values():
            file.close()


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _environment() -> dict[str, str]:
    """This process's environment, so that services import and read what it would."""
    return {
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
