"""The vision service as a program: health, reflection, stopping, and starts that cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from internvl.v1 import vision_service_pb2_grpc
from tests.contract.vision_samples import encode, image
from tests.unit.media_samples import encoded, picture
from vision_service.server import SERVICE_NAME

PHOTO = encoded(picture(170, 120))


def test_health_and_reflection(vision_channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(vision_channel)
    for name in ("", "live", "ready", SERVICE_NAME):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflected = ProtoReflectionDescriptorDatabase(vision_channel)
    assert SERVICE_NAME in reflected.get_services()


@pytest.fixture
def process(vision_checkpoint: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m vision_service`; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vision_service", *flags]
        root = Path(__file__).parents[2]
        child = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield run
    for child in started:
        child.kill()
        child.wait(timeout=20)


def test_the_program_serves_and_stops_on_sigterm(
    process: Callable[..., subprocess.Popen[str]], vision_checkpoint: Path, tmp_path: Path
) -> None:
    socket = f"unix:{tmp_path / 's'}"
    child = process("--model", str(vision_checkpoint), "--listen", socket)
    with grpc.insecure_channel(socket) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        stub = vision_service_pb2_grpc.VisionServiceStub(channel)
        assert len(encode(stub, image(), PHOTO).tiles) == 7
    os.kill(child.pid, signal.SIGTERM)
    _, log = child.communicate(timeout=30)
    assert child.returncode == 0, log
    assert [line for line in log.splitlines() if not line.startswith("{")] == []
    assert '"event": "ready"' in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere"], "config.json: cannot be read"),
        (["--max-frames", "0"], "--max-frames: must be above 0, got 0"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_line(
    process: Callable[..., subprocess.Popen[str]], flags: list[str], message: str
) -> None:
    child = process(*flags)
    _, log = child.communicate(timeout=60)
    assert child.returncode == 2
    assert message in log
    assert len(log.splitlines()) == 1
