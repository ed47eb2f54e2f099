"""How long the vision service takes for a tile at the shapes of InternVL2-4B, with random weights."""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
from PIL import Image

from deploy.launcher import LaunchConfig
from deploy.launcher.config import Service
from deploy.launcher.free_ports import free_ports
from deploy.launcher.stack import launch_services
from internvl.checkpoint import series_config, write_random_checkpoint
from internvl.v1 import vision_service_pb2, vision_service_pb2_grpc

_READY_S = 300.0
_PICTURES = 3


def encode_seconds() -> float:
    """Seconds for one tile; the median of a few pictures of one tile each."""
    with tempfile.TemporaryDirectory(prefix="internvl-4b-") as folder:
        model = Path(folder) / "model"
        write_random_checkpoint(model, _vision_config())
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        command = (sys.executable, "-m", "vision_service", "--listen", address, "--model", str(model))
        service = Service("vision", (*command, "--log-level", "warning"), address)
        config = LaunchConfig(ready_timeout_s=_READY_S, grace_s=1.0)
        with launch_services([service], config), grpc.insecure_channel(address) as channel:
            stub = vision_service_pb2_grpc.VisionServiceStub(channel)
            _encode(stub, 0)
            return statistics.median(_encode(stub, number) for number in range(1, 1 + _PICTURES))


def _vision_config() -> dict[str, object]:
    """The whole vision tower and projector, and as little as possible of the decoder behind them."""
    config = series_config("InternVL2-4B")
    config["llm_config"] |= {"num_hidden_layers": 1, "vocab_size": 32_064, "intermediate_size": 64}
    return config


def _encode(stub: vision_service_pb2_grpc.VisionServiceStub, number: int) -> float:
    picture = io.BytesIO()
    Image.new("RGB", (448, 448), (number, 40, 80)).save(picture, "PNG")
    opening = vision_service_pb2.EncodeOpen()
    opening.image.max_tiles = 1
    requests = [
        vision_service_pb2.EncodeRequest(open=opening),
        vision_service_pb2.EncodeRequest(chunk=picture.getvalue()),
    ]
    began = time.perf_counter()
    tiles = sum(response.HasField("tile") for response in stub.Encode(iter(requests)))
    return (time.perf_counter() - began) / tiles
