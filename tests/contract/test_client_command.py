"""`internvl chat` against a gateway with stand-in tiers, and the demonstration, which asks the same way."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.launcher.demo import play
from deploy.launcher.demo_story import Scene, Turn, read_scenes
from internvl.errors import ConfigError
from internvl_client import Client, Image, Media
from internvl_client.command import command
from internvl_client.terminal import Screen, Talk, printable
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import Stack, gateway_stack

EXAMPLES = Path(__file__).resolve().parents[2] / "clients" / "examples"


@contextmanager
def running_stack() -> Iterator[Stack]:
    """A stack on a loop of its own, for tests of blocking code."""
    ready: list[Stack] = []
    started, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with gateway_stack() as stack:
            ready.append(stack)
            started.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20)
        yield ready[0]
    finally:
        done.set()
        thread.join(20)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; a hang fails within 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def chat(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args(arguments))


def talk(stack: Stack, *lines: str | Exception) -> tuple[str, str]:
    """What an interactive conversation of these lines writes: answers, and notes beside them."""
    out, notes = io.StringIO(), io.StringIO()
    typed = iter(lines)

    def read_line(prompt: str) -> str:
        line = next(typed, None)
        if line is None:
            raise EOFError
        if isinstance(line, Exception):
            raise line
        return line

    with Client(stack.address) as client:
        Talk(client, Screen(out, notes, progress=False, stats=False), {}, read_line=read_line).run()
    return out.getvalue(), notes.getvalue()


def test_one_question_prints_the_answer_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(picture(2))
    with running_stack() as stack:
        code = chat("what is it", "-i", str(tmp_path / "a.png"), "--address", stack.address, "--seed", "7")
        assert stack.llm.opened[0].sampling.seed == 7
        assert not stack.llm.opened[0].sampling.HasField("temperature")
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err) == (0, "what is it\n", "")


def test_stats_tell_counts_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    with running_stack() as stack:
        assert chat("one two", "--address", stack.address, "--stats") == 0
    assert "10 prompt tokens" in capsys.readouterr().err


def test_form_and_replay_bundle_are_files(tmp_path: Path) -> None:
    schema, bundle = tmp_path / "schema.json", tmp_path / "bundle.json"
    schema.write_text('{"type": "integer"}')
    with running_stack() as stack:
        files = ("--json-schema", str(schema), "--replay-bundle", str(bundle))
        assert chat("one", "--address", stack.address, *files) == 0
        assert stack.llm.opened[0].sampling.grammar.json_schema == '{"type": "integer"}'
        with pytest.raises(ConfigError, match="--replay-bundle: goes with a question"):
            chat("--address", stack.address, "--replay-bundle", str(bundle))
    assert bundle.read_bytes() == b'{"version": 1}'


@pytest.mark.parametrize(
    ("program", "arguments", "lines"),
    [
        ("one_image.py", ["a.png", "what is it"], ["what is it"]),
        (
            "several_images.py",
            ["a.png", "b.png"],
            ["What does each image show?", "What is in the first image?"],
        ),
        ("async_streaming.py", ["a.png", "b.png"], ["a.png: Describe", "b.png:  image."]),
    ],
)
def test_examples_run_as_they_are(
    program: str, arguments: list[str], lines: list[str], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(2, name))
    path = os.pathsep.join(path for path in sys.path if path)
    with running_stack() as stack:
        run = subprocess.run(
            [sys.executable, str(EXAMPLES / program), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "INTERNVL_ADDRESS": stack.address},
            timeout=60,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    for line in lines:
        assert line in run.stdout


def test_ctrl_c_stops_the_answer_on_all_tiers() -> None:
    program = """
import signal, sys
from tests.contract.test_client_command import chat
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
sys.exit(chat(*sys.argv[1:]))
"""
    with running_stack() as stack:
        stack.llm.gate.clear()
        with subprocess.Popen(
            [sys.executable, "-c", program, "one two", "--address", stack.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        ) as asking:
            wait_until(lambda: stack.llm.active == 1)
            asking.send_signal(signal.SIGINT)
            out, notes = asking.communicate(timeout=20)
            assert (asking.returncode, out, notes) == (130, "\n", " [stopped]")
        wait_until(lambda: stack.llm.active == 0)


def test_no_server_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert chat("hello", "--address", "127.0.0.1:9") == 1
    assert "start one with `internvl up`" in capsys.readouterr().err
    assert chat("--address", "127.0.0.1:9") == 1
    assert "start one with `internvl up`" in capsys.readouterr().err


def test_refused_question_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with running_stack() as stack:
        assert chat("hello", "-i", str(tmp_path / "a.png"), "--address", stack.address) == 1
    assert "messages[0].parts[0].image: unknown format" in capsys.readouterr().err


def test_talk_keeps_the_conversation_and_shows_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(2))
    with running_stack() as stack:
        out, _ = talk(
            stack, f"/image {tmp_path / 'a.png'}", "what is it", "", "and now", "/quit", "never said"
        )
        assert out == "what is it\nand now\n"
        first, second = stack.llm.opened
        assert [len(message.parts) for message in first.messages] == [2]
        assert [len(message.parts) for message in second.messages] == [2, 1, 1]
        assert len(stack.vision.encoded) == 1


def test_talk_starts_anew_after_reset() -> None:
    with running_stack() as stack:
        out, _ = talk(stack, "one", "/reset", "two")
        assert out == "one\ntwo\n"
        assert [len(opened.messages) for opened in stack.llm.opened] == [1, 1]


def test_talk_survives_mistakes(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with running_stack() as stack:
        out, notes = talk(
            stack,
            "/nonsense",
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "/image",
            "/image no-such-file.png",
            "half a character: \ud83d",
            f"/image {tmp_path / 'bad.png'}",
            "/help",
            "still here",
        )
    assert out == "still here\n"
    assert "unknown command /nonsense" in notes
    assert "this line is not text" in notes
    assert "name a file: /image PATH" in notes
    assert "no-such-file.png" in notes
    assert "messages[0].parts[0].text: is not Unicode text" in notes
    assert "unknown format" in notes
    assert "/reset" in notes


def test_talk_forgets_a_picture_that_the_server_lost() -> None:
    with running_stack() as stack, Client(stack.address) as client:
        notes = io.StringIO()
        typed = iter(["what is it", "still here", "/quit"])
        screen = Screen(io.StringIO(), notes, progress=False, stats=False)
        lost = Talk(client, screen, {}, read_line=lambda prompt: next(typed))
        lost.show(Image(Media("0" * 64)))
        lost.run()
    assert screen.out.getvalue().strip() == "still here"  # type: ignore[attr-defined]
    assert "no media of this id is stored" in notes.getvalue()


def test_letters_that_the_terminal_has_not_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    with running_stack() as stack:
        assert chat("naïve", "--address", stack.address) == 0
    assert shown.getvalue() == b"na?ve\n"


def test_control_characters_of_an_answer_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\n\tc\u009b字") == "a[2Jb\n\tc字"


def scene(tmp_path: Path, *turns: Turn) -> Scene:
    (tmp_path / "a.png").write_bytes(picture(3))
    return Scene("shapes", (tmp_path / "a.png",), turns, frames=0)


def test_demonstration_marks_what_is_not_as_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_stack() as stack, Client(stack.address) as client:
        right, wrong = Turn("a red circle", "a red circle"), Turn("bottom right", "top left")
        assert play(client, scene(tmp_path, right, wrong)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shapes (a.png)"
    assert lines[2].strip().startswith("a red circle   [3 tiles, first text after ")
    assert "bottom right   <-- expected: top left" in lines[4]


def test_scenes_are_read_from_the_folder_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(
        '[{"name": "n", "files": ["a.png"], "turns": [{"question": "q", "answer": "a"}], "frames": 0}]'
    )
    (tmp_path / "a.png").write_bytes(b"x")
    assert read_scenes(tmp_path) == (Scene("n", (tmp_path / "a.png",), (Turn("q", "a"),), 0),)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no demo.json"),
        ("{", "cannot be read"),
        ('[{"name": "n"}]', "cannot be read"),
        ('[{"name": "n", "files": ["gone.png"], "turns": []}]', "lacks gone.png"),
    ],
)
def test_unusable_scenes_are_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "demo.json").write_text(content)
    with pytest.raises(ConfigError, match=problem):
        read_scenes(tmp_path)
