"""The launcher with stand-in services: start, readiness, failure of one, and the end of all."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.launcher import LaunchConfig, LaunchError, Ports
from deploy.launcher.command import command
from deploy.launcher.config import GATEWAY, LLM, VISION, Service, plan_services
from deploy.launcher.stack import launch_services
from tests.e2e.stand_in_service import LINES

STAND_IN = Path(__file__).with_name("stand_in_service.py")
CONFIG = LaunchConfig(ready_timeout_s=20.0, grace_s=1.0)


def services(**manners: str) -> list[Service]:
    ports = Ports.free()
    listed = ((GATEWAY, ports.gateway), (LLM, ports.llm), (VISION, ports.vision))
    return [
        Service(
            name,
            (sys.executable, str(STAND_IN), name, str(port), manners.get(name, "good")),
            f"127.0.0.1:{port}",
        )
        for name, port in listed
    ]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while being read
        return False


def gone(pids: Iterator[int] | list[int], within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    waiting = list(pids)
    while any(alive(pid) for pid in waiting) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in waiting)


def test_all_are_ready_within_the_block_and_gone_after_it() -> None:
    told: list[str] = []
    lines: list[tuple[str, str]] = []
    with launch_services(
        services(), CONFIG, log=lambda name, line: lines.append((name, line)), report=told.append
    ) as stack:
        pids = [process.pid for process in stack.processes.values()]
        assert all(alive(pid) for pid in pids)
        assert {line.split()[0] for line in told} == {GATEWAY, LLM, VISION}
        assert stack.gateway_address == stack.processes[GATEWAY].service.address
    assert gone(pids)
    assert (VISION, "vision: serving") in lines


def test_service_that_cannot_start_is_named_with_its_log() -> None:
    failure = r"(?s)llm ended by itself \(exit code 3\).*llm: no model here"
    with pytest.raises(LaunchError, match=failure), launch_services(services(llm="fails"), CONFIG):
        pytest.fail("never ready")


def test_taken_address_is_refused_before_anything_starts() -> None:
    planned = services()
    host, _, port = planned[1].address.rpartition(":")
    failure = f"{planned[1].address} for llm is taken"
    taken = socket.create_server((host, int(port)))
    with taken, pytest.raises(LaunchError, match=failure), launch_services(planned, CONFIG):
        pytest.fail("never started")


def test_service_that_is_never_ready_is_named() -> None:
    config = LaunchConfig(ready_timeout_s=1.0, grace_s=0.5)
    failure = r"not ready after 1 s: .*vision$"
    with pytest.raises(LaunchError, match=failure), launch_services(services(vision="late"), config):
        pytest.fail("never ready")


def test_service_that_is_killed_ends_the_wait_and_the_others() -> None:
    with launch_services(services(), CONFIG) as stack:
        pids = [process.pid for process in stack.processes.values()]
        os.kill(stack.processes[LLM].pid, signal.SIGKILL)
        with pytest.raises(LaunchError, match=r"llm ended by itself \(signal 9\)"):
            stack.wait()
    assert gone(pids)


def test_service_that_does_not_stop_is_killed_after_its_grace() -> None:
    with launch_services(services(gateway="stubborn"), LaunchConfig(grace_s=0.2)) as stack:
        pids = [process.pid for process in stack.processes.values()]
        leaving = time.monotonic()
    assert gone(pids)
    assert 1.0 <= time.monotonic() - leaving < 10


def test_services_end_with_a_launcher_that_is_killed() -> None:
    """Nobody is left to stop them; the kernel does."""
    program = """
import sys, time
from tests.e2e.test_launcher import CONFIG, launch_services, services
with launch_services(services(), CONFIG) as stack:
    print(*(process.pid for process in stack.processes.values()), flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    ) as launcher:
        assert launcher.stdout is not None
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        assert len(pids) == 3
        launcher.kill()
    assert gone(pids)


def test_logs_go_to_files(tmp_path: Path) -> None:
    config = LaunchConfig(log_dir=tmp_path / "logs", grace_s=1.0)
    with launch_services(services(), config):
        pass
    assert sorted(path.name for path in config.log_dir.iterdir()) == ["gateway.log", "llm.log", "vision.log"]  # type: ignore[union-attr]
    assert (tmp_path / "logs" / "llm.log").read_text() == "llm: serving\n"


def test_every_line_of_a_log_arrives() -> None:
    lines: list[str] = []
    with launch_services(
        services(llm="chatty"), CONFIG, log=lambda name, line: lines.append(line) if name == LLM else None
    ):
        pass
    assert len(lines) == 2 * LINES + 1


def test_log_that_cannot_be_written_holds_up_no_service() -> None:
    def full_disk(name: str, line: str) -> None:
        raise OSError(28, "No space left on device")

    with launch_services(services(llm="chatty"), CONFIG, log=full_disk) as stack:
        assert stack.processes[LLM].exit_code is None


def test_plan_names_every_service_and_shares_the_cores() -> None:
    config = LaunchConfig(Path("model"), ports=Ports(1, 2, 3), threads=5, store="chat.db")
    gateway, llm, vision = plan_services(config)
    assert [service.address for service in (gateway, llm, vision)] == [
        "127.0.0.1:1",
        "127.0.0.1:3",
        "127.0.0.1:2",
    ]
    assert gateway.arguments[2:4] == ("gateway", "--listen")
    assert "chat.db" in gateway.arguments
    assert gateway.arguments[gateway.arguments.index("--http-listen") + 1] == "127.0.0.1:8000"
    assert "--http-listen" not in plan_services(LaunchConfig(ports=Ports(1, 2, 3, 0)))[0].arguments
    for tier in (llm, vision):
        assert tier.arguments[tier.arguments.index("--threads") + 1] == "5"
        assert tier.arguments[tier.arguments.index("--model") + 1] == "model"
    (_, shared, _) = plan_services(LaunchConfig())
    threads = int(shared.arguments[shared.arguments.index("--threads") + 1])
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.parametrize(
    ("store", "given", "media"),
    [
        (None, None, None),
        ("memory", None, None),
        ("chat.db", None, "chat.db-media"),
        ("chat.db", "elsewhere", "elsewhere"),
        ("redis://127.0.0.1:1/0", None, None),
        ("redis://127.0.0.1:1/0", "s3://bucket", "s3://bucket"),
    ],
)
def test_media_is_kept_beside_a_store_that_is_a_file(
    store: str | None, given: str | None, media: str | None
) -> None:
    config = LaunchConfig(ports=Ports(1, 2, 3), store=store, media_dir=given)
    arguments = plan_services(config)[0].arguments
    found = arguments[arguments.index("--media-dir") + 1] if "--media-dir" in arguments else None
    assert found == media


@pytest.mark.parametrize("ports", ["1,2", "1,2,2", "0,1,2", "1,2,70000", "1,2,3,3", "1,2,3,4,5", "a,b,c", ""])
def test_ports_that_cannot_be_used_are_refused(ports: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--ports", ports])
    assert "--ports" in capsys.readouterr().err
    assert parser.parse_args(["--ports", "auto"]).ports is None
    assert parser.parse_args(["--ports", "7,8,9"]).ports == Ports(7, 8, 9)
    assert parser.parse_args(["--ports", "7,8,9,10"]).ports == Ports(7, 8, 9, 10)
    assert parser.parse_args(["--ports", "7,8,9,0"]).ports == Ports(7, 8, 9, 0)
