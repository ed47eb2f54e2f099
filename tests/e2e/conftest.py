"""The whole system as its user starts it: `internvl up` on a tiny random model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.llm_samples import write_tiny_model

CONTEXT = 512

_SERVICE = re.compile(r"(gateway|llm|vision) +(127\.0\.0\.1:\d+) +process (\d+)")

# The command as an installation offers it, without needing one.
INTERNVL = """
import sys
from importlib.metadata import EntryPoint
from internvl.cli.main import main
from internvl.cli.registry import GROUP, Registry
entries = {
    "chat": "internvl_client.command:command",
    "checkpoint": "internvl.cli.checkpoint:command",
    "replay": "deploy.replay.command:command",
    "up": "deploy.launcher.command:command",
}
sys.exit(main(None, Registry([EntryPoint(name, value, GROUP) for name, value in entries.items()])))
"""


@dataclass(frozen=True)
class System:
    """A running `internvl up`.

    Attributes:
        process: the launcher.
        addresses: of the services, by name.
        pids: their processes.
    """

    process: subprocess.Popen[str]
    addresses: dict[str, str]
    pids: dict[str, int]


def internvl(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `internvl ARGUMENTS` to its end."""
    return subprocess.run(
        command_line(*arguments),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-c", INTERNVL, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the 4B architecture with random weights and a real tokenizer."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@contextmanager
def started(model: Path, log: Path) -> Iterator[System]:
    """`internvl up` until the block ends, if it has not ended before."""
    arguments = ("up", "--model", str(model), "--ports", "auto")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command_line(*arguments), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
        ) as process,
    ):
        assert process.stdout is not None
        addresses: dict[str, str] = {}
        pids: dict[str, int] = {}
        for line in process.stdout:
            if match := _SERVICE.match(line):
                addresses[match[1]], pids[match[1]] = match[2], int(match[3])
            else:
                break
        try:
            assert len(addresses) == 3, log.read_text()
            yield System(process, addresses, pids)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="session")
def system(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All three services, shared by the tests that leave them whole."""
    with started(tiny_model, tmp_path_factory.mktemp("log") / "up.log") as running:
        yield running
