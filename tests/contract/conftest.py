"""What the tests of a whole run share: a vision service, and a model for language services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from internvl.v1 import vision_service_pb2_grpc
from tests.contract.vision_samples import (
    MAX_BYTES,
    ServedInThread,
    Stub,
    small_config,
    with_limits,
    write_small_checkpoint,
)
from tests.unit.llm_samples import write_tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model in the released layout, for language services."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in the released layout."""
    return write_small_checkpoint(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def vision_channel(vision_checkpoint: Path) -> Iterator[grpc.Channel]:
    """A channel to a service that takes files of `MAX_BYTES`."""
    config = with_limits(small_config(vision_checkpoint), max_media_bytes=MAX_BYTES)
    with ServedInThread(config) as address, grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture(scope="session")
def vision(vision_channel: grpc.Channel) -> Stub:
    """A stub of the same service."""
    return vision_service_pb2_grpc.VisionServiceStub(vision_channel)
