"""Damaged safetensors files: an error that names the file, whatever the damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_samples import write_sample
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from internvl.checkpoint import open_checkpoint
from internvl.checkpoint.safetensors_shard import SafetensorsShard
from internvl.errors import CheckpointError
from internvl.model_config import read_model_config


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "model.safetensors"
    tensors = {f"layer.{index}.weight": np.full((3, 5), index, np.float32) for index in range(4)}
    save_file(tensors, path, {"format": "pt"})
    return path.read_bytes()


def complaint(folder: Path, content: bytes) -> str | None:
    """Open and read a whole file; what is said about its damage, if any."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        shard = SafetensorsShard(path)
        list(shard.read(shard.entries))
    except CheckpointError as error:
        return str(error)
    return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_and_mutated_files(sound: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(sound[: data.draw(st.integers(0, len(sound)), label="length")])
    for _ in range(data.draw(st.integers(0, 4), label="changes") if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    said = complaint(tmp_path, bytes(damaged))
    assert said is None or said.startswith("model.safetensors: ")


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "format", "a"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADERS, data=st.binary(max_size=16))
@example(header={"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}, data=bytes(16))
@example(header={"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, data=bytes(16))
@example(header={"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, data=bytes(16))
@example(header={"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}, data=bytes(16))
@example(header={"__metadata__": {"format": 3}}, data=b"")
def test_any_json_as_a_header(header: object, data: bytes, tmp_path: Path) -> None:
    encoded = json.dumps(header).encode()
    said = complaint(tmp_path, len(encoded).to_bytes(8, "little") + encoded + data)
    assert said is None or said.startswith("model.safetensors: ")


def test_every_truncation_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write_sample(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    config = read_model_config(tmp_path)
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"^model\.safetensors: not a readable safetensors file"):
            open_checkpoint(tmp_path, config)


def test_a_file_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_sample(tmp_path) / "model.safetensors"
    tensors = open_checkpoint(tmp_path, read_model_config(tmp_path)).tensors()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        list(tensors)
