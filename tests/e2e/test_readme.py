"""What the README and `internvl up` tell a newcomer to type does what they say, with the embedded model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import command_line, environment, internvl

ROOT = Path(__file__).resolve().parents[2]
ANSWER = "a red circle, a blue square and a green star"


@dataclass(frozen=True)
class Running:
    """A running `internvl up`: where it serves, and what it says to try."""

    address: str
    http: str
    hint: str


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    command = command_line("up", "--ports", "auto", "--log-level", "warning")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("Try: "):
                    break
            patterns = (r"^gateway +(\S+)", r"(http://[\d.:]+)", r"^Try: internvl (.*)$")
            found = [re.search(pattern, said, re.MULTILINE) for pattern in patterns]
            assert None not in found, said
            yield Running(*(match[1] for match in found if match))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def fenced(document: str, language: str) -> list[str]:
    """The blocks of code of a document in this language."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for each, block in blocks if each == language]


def readme_line(start: str) -> list[str]:
    """The words of a command of the README."""
    (line,) = re.findall(rf"^{start} .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return shlex.split(line, comments=True)


def test_what_the_launcher_says_to_try_is_answered(running: Running) -> None:
    run = internvl(*shlex.split(running.hint), cwd=ROOT)
    assert (run.stdout.strip(), run.returncode) == (ANSWER, 0), run.stderr


def test_chat_of_the_readme_is_answered(running: Running) -> None:
    _, *arguments = readme_line("internvl chat")
    run = internvl(*arguments, "--address", running.address, cwd=ROOT)
    assert (run.stdout.strip(), run.returncode) == (ANSWER, 0), run.stderr


def test_checkpoint_commands_of_the_readme_work_on_the_embedded_model(tmp_path: Path) -> None:
    for action in ("inspect", "quantize"):
        _, *arguments = readme_line(f"internvl checkpoint {action}")
        assert arguments.count("InternVL2-4B") == 1
        places = {"InternVL2-4B": str(ROOT / "models" / "nano"), "small": str(tmp_path / "small")}
        run = internvl(*(places.get(each, each) for each in arguments), cwd=ROOT)
        assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("document", ["README.md", "docs/http.md"])
def test_program_of_a_document_prints_the_answer(running: Running, document: str) -> None:
    (program,) = fenced(document, "python")
    moved = program.replace("127.0.0.1:50050", running.address).replace("http://127.0.0.1:8000", running.http)
    run = subprocess.run(
        [sys.executable, "-c", moved],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert (run.stdout.strip(), run.returncode) == (ANSWER, 0), run.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_of_the_readme_is_answered(running: Running) -> None:
    (command,) = (block for block in fenced("README.md", "") if block.startswith("curl "))
    words = shlex.split(command.replace("\\\n", ""))
    moved = [word.replace("http://127.0.0.1:8000", running.http) for word in words]
    run = subprocess.run(moved, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(run.stdout)["choices"][0]["message"]["content"]
