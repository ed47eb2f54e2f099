"""The language service as a process: it starts, says so and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from llm_service.server import SERVICE_NAME


def test_the_process_starts_says_so_and_stops(folder: Path) -> None:
    command = [sys.executable, "-m", "llm_service", "--model", str(folder), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stderr is not None
    try:
        events = (json.loads(line) for line in process.stderr if line.startswith("{"))
        ready = next(event for event in events if event["event"] == "ready")
        port = ready["port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert SERVICE_NAME in services
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_cannot_be_served_is_told_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_service", "--model", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("llm_service: ")
    assert "config.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1
