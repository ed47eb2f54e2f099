"""Conversion between the layouts, and how much memory streaming takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_samples import PADDLE, PDPARAMS, assert_bit_equal, read_all, small_config, write_sample
from safetensors.numpy import load_file, save_file

from internvl.checkpoint import SERIES, Layout, WriteOptions, open_checkpoint
from internvl.checkpoint.conversion import convert_checkpoint
from internvl.errors import CheckpointError
from internvl.model_config import read_model_config

HF = WriteOptions()


@pytest.mark.parametrize("between", [PADDLE, PDPARAMS], ids=["safetensors", "pdparams"])
@pytest.mark.parametrize("name", SERIES)
def test_there_and_back_is_bit_equal(name: str, between: WriteOptions, tmp_path: Path) -> None:
    start = write_sample(tmp_path / "hf", name=name)
    convert_checkpoint(start, tmp_path / "paddle", between)
    convert_checkpoint(tmp_path / "paddle", tmp_path / "back", HF)
    assert open_checkpoint(tmp_path / "paddle", read_model_config(start)).layout is Layout.PADDLE
    # Compared as files, through the library's own reader.
    assert_bit_equal(load_file(start / "model.safetensors"), load_file(tmp_path / "back/model.safetensors"))


@pytest.mark.parametrize("size", [1, 20_000, 60_000])
def test_shards_of_any_size_hold_the_same_weights(size: int, tmp_path: Path) -> None:
    start = write_sample(tmp_path / "one")
    convert_checkpoint(start, tmp_path / "many", WriteOptions(max_shard_bytes=size))
    assert_bit_equal(read_all(start), read_all(tmp_path / "many"))
    for path in (tmp_path / "many").glob("*.safetensors"):
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(array.nbytes for array in tensors.values()) <= size
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in read_all(start).values())


def test_each_tensor_keeps_its_own_dtype(tmp_path: Path) -> None:
    start = write_sample(tmp_path / "mixed")
    weights = load_file(start / "model.safetensors")
    weights["mlp1.0.weight"] = weights["mlp1.0.weight"].astype(np.float32)
    save_file(weights, start / "model.safetensors", {"format": "pt"})
    convert_checkpoint(start, tmp_path / "paddle", PADDLE)
    convert_checkpoint(tmp_path / "paddle", tmp_path / "back", HF)
    assert_bit_equal(weights, load_file(tmp_path / "back/model.safetensors"))


def test_a_wished_dtype_is_cast_and_declared(tmp_path: Path) -> None:
    start = write_sample(tmp_path / "start")
    convert_checkpoint(start, tmp_path / "wide", HF, dtype="float32")
    assert {array.dtype for array in read_all(tmp_path / "wide").values()} == {np.dtype(np.float32)}
    assert read_model_config(tmp_path / "wide").torch_dtype == "float32"
    convert_checkpoint(tmp_path / "wide", tmp_path / "back", HF, dtype="bfloat16")
    assert_bit_equal(read_all(start), read_all(tmp_path / "back"))


def test_config_and_tokenizer_come_along_and_old_weights_do_not(tmp_path: Path) -> None:
    start = write_sample(tmp_path / "start", WriteOptions(max_shard_bytes=50_000))
    (start / "tokenizer.model").write_bytes(b"pieces")
    (start / ".cache").mkdir()
    convert_checkpoint(start, tmp_path / "paddle", PDPARAMS)
    names = sorted(path.name for path in (tmp_path / "paddle").iterdir())
    assert names == ["config.json", "model_state.pdparams", "tokenizer.model"]
    assert json.loads((tmp_path / "paddle/config.json").read_text()) == small_config()


def test_a_broken_source_leaves_no_target(tmp_path: Path) -> None:
    start = write_sample(tmp_path / "start")
    weights = load_file(start / "model.safetensors")
    del weights["mlp1.3.bias"]
    save_file(weights, start / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing tensors: mlp1\.3\.bias"):
        convert_checkpoint(start, tmp_path / "target", PADDLE)
    assert not (tmp_path / "target").exists()


def test_pdparams_are_never_in_hf_layout(tmp_path: Path) -> None:
    options = WriteOptions(file_format=PDPARAMS.file_format)
    with pytest.raises(CheckpointError, match="always hold the Paddle layout"):
        convert_checkpoint(write_sample(tmp_path / "start"), tmp_path / "target", options)


MEASURE = """
import resource, sys
from pathlib import Path
from internvl.checkpoint import open_checkpoint
from internvl.checkpoint.conversion import convert_checkpoint
from internvl.checkpoint.writer import WriteOptions, FileFormat
from internvl.checkpoint.layout import Layout
from internvl.model_config import read_model_config

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder, target, job = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
checkpoint = open_checkpoint(folder, read_model_config(folder))
before = peak()
if job == "keep":
    kept = dict(checkpoint.tensors())
elif job == "drop":
    for _ in checkpoint.tensors():
        pass
elif job == "fingerprint":
    checkpoint.fingerprint()
else:
    convert_checkpoint(folder, target, WriteOptions(Layout.PADDLE, max_shard_bytes=16 << 20))
print(peak() - before)
"""

MIB = 1 << 20


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 MiB of float32 in shards of 16 MiB, with no tensor over 4 MiB."""
    from internvl.checkpoint import write_random_checkpoint

    raw = small_config()
    raw["llm_config"] |= {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "num_hidden_layers": 20,
    }
    raw["llm_config"]["rope_scaling"] |= {"short_factor": [1.0] * 32, "long_factor": [1.0] * 32}
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    write_random_checkpoint(folder, raw, dtype="float32", options=WriteOptions(max_shard_bytes=16 * MIB))
    return folder


@pytest.mark.parametrize(
    ("job", "weights_held"), [("drop", 0), ("fingerprint", 0), ("convert", 0), ("keep", 1)]
)
def test_streaming_holds_one_shard_beyond_what_is_kept(
    job: str, weights_held: int, sharded: Path, tmp_path: Path
) -> None:
    total = sum(path.stat().st_size for path in sharded.glob("*.safetensors"))
    assert total > 150 * MIB
    command = [sys.executable, "-c", MEASURE, str(sharded), str(tmp_path / "target"), job]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < weights_held * total + 16 * MIB + 8 * MIB
