"""A vision service in a process of its own, and what its metrics say."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from deploy.launcher.free_ports import free_ports

_START_S = 120


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        address: for gRPC.
    """

    address: str
    _metrics: str

    def metrics(self, *names: str) -> list[float]:
        """Of each sample the sum over all labels, for example of `encoder_busy_seconds_total`."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return [
            sum(sample.value for sample in samples if sample.name == f"internvl_vision_{name}")
            for name in names
        ]


@contextmanager
def running_service(*flags: str) -> Iterator[Service]:
    """Start a service and wait until it answers; it ends with the block.

    Args:
        flags: of the vision service; what is not said has its default.
    """
    with tempfile.TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        address, metrics = f"unix:{Path(folder) / 'vision'}", f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "vision_service", "--listen", address, "--metrics-listen", metrics]
        process = subprocess.Popen([*command, "--log-level", "warning", *flags])
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=_START_S)
            yield Service(address, metrics)
        finally:
            process.terminate()
            process.wait(timeout=60)
