"""Files of `paddle.save`: what it really writes is read, and nothing in a pickle is ever run."""

from __future__ import annotations

import builtins
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_samples import PADDLE, PDPARAMS, assert_bit_equal, read_all, write_sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels.runtime  # noqa: F401  (sets the environment that paddle reads when it is imported)
from internvl.checkpoint import open_checkpoint
from internvl.checkpoint.pdparams_shard import PdparamsShard
from internvl.errors import CheckpointError
from internvl.model_config import read_model_config

paddle = pytest.importorskip("paddle")


def paddle_state(folder: Path) -> dict[str, Any]:
    """The weights of a checkpoint as Paddle tensors, in Paddle orientation."""
    return {
        name: paddle.to_tensor(np.ascontiguousarray(array.astype(np.float32))).astype("bfloat16")
        for name, array in read_all(write_sample(folder)).items()
    }


def as_linear(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(folder, read_model_config(folder))
    linear = {spec.name for spec in checkpoint.specs() if spec.kind.value == "linear"}
    return {name: value.t().contiguous() if name in linear else value for name, value in state.items()}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_real_paddle_save_is_read_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    hf, target = tmp_path / "hf", tmp_path / "paddle"
    state = as_linear(paddle_state(hf), hf)
    target.mkdir()
    shutil.copyfile(hf / "config.json", target / "config.json")
    paddle.save(state, str(target / "model_state.pdparams"), protocol=protocol)
    assert_bit_equal(read_all(hf), read_all(target))


def test_safetensors_written_by_paddle_are_read(tmp_path: Path) -> None:
    hf, target = tmp_path / "hf", tmp_path / "paddle"
    state = as_linear(paddle_state(hf), hf)
    target.mkdir()
    shutil.copyfile(hf / "config.json", target / "config.json")
    paddle.save(state, str(target / "model.safetensors"), safetensors=True)
    assert_bit_equal(read_all(hf), read_all(target))


def test_paddle_load_accepts_what_we_write(tmp_path: Path) -> None:
    write_sample(tmp_path, PDPARAMS)
    loaded = paddle.load(str(tmp_path / "model_state.pdparams"))
    ours = PdparamsShard(tmp_path / "model_state.pdparams")
    arrays = dict(ours.read(ours.entries))
    assert loaded.keys() == arrays.keys()
    for name, tensor in loaded.items():
        assert np.array_equal(tensor.numpy().view(np.uint16), arrays[name].view(np.uint16)), name


def test_arrays_that_paddle_cut_into_slices_are_joined(tmp_path: Path) -> None:
    """Protocols 2 and 3 cut arrays over 1 GiB; the table is Paddle's own, here over a small array."""
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    parts = {"big@@.0": whole.flatten()[:14], "big@@.1": whole.flatten()[14:]}
    table = {"big": {"OriginShape": (4, 6), "slices": list(parts)}}
    content = {"small": np.ones(3, np.float32), **parts, "UnpackBigParamInfor@@": table}
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps(content, protocol=2))
    shard = PdparamsShard(path)
    assert shard.entries["big"].shape == (4, 6)
    assert np.array_equal(dict(shard.read({"big"}))["big"], whole)


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class Nested:
    """Hides a call in the state of an otherwise plain array."""

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = np.zeros(3, np.float32).__reduce__()  # type: ignore[misc]
        return function, arguments, (*state[:-1], Call(os.system, "true"))


HOSTILE = {
    "os.system": (Call(os.system, "true"), f"{os.system.__module__}.system"),
    "eval": (Call(builtins.eval, "1 + 1"), "builtins.eval"),
    "getattr": (Call(getattr, "text", "upper"), "builtins.getattr"),
    "in an array": (Nested(), f"{os.system.__module__}.system"),
    "in a key": ({Call(os.system, "true"): 1}, f"{os.system.__module__}.system"),
    "numpy loader": (Call(np.load, "weights.npy"), "numpy.load"),
    "class": (Path("here"), f"{type(Path()).__module__}.{type(Path()).__name__}"),
    "the tuple that paddle.save writes for lone tensors": (Call(tuple, ("name", 1)), "builtins.tuple"),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_the_global_named(name: str, protocol: int, tmp_path: Path) -> None:
    payload, _ = HOSTILE[name]
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"weight": payload}, protocol=protocol))
    with pytest.raises(
        CheckpointError, match=r"^model_state\.pdparams: refused, the pickle asks for "
    ) as caught:
        PdparamsShard(path)
    if protocol >= 3:  # earlier ones rename Python 3's modules, and reach for copyreg before the payload
        assert HOSTILE[name][1] in str(caught.value)


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch CANARY'\ntR.",
        b"(S'touch CANARY'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch CANARY'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n\x8c\x0ctouch CANARY\x85R.",
        b"\x80\x04cnumpy\nndarray\n(K\x01tR.",
        b"\x80\x04cnumpy\ndtype\n\x8c\x01O\x85R.",
        b"\x80\x04cnumpy\ndtype\n}\x8c\x08__call__cos\nsystem\nsb.",
        b"\x80\x04cnumpy\ndtype\nN}\x8c\x08__call__K\x01s\x86b.",
        b"\x80\x04P1\n.",
        b"\x80\x04K\x01Q.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04]r\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
        b"\x80\x04}.x",
        b"",
    ],
)
def test_hand_written_programs_do_nothing(
    program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(program)
    before = sorted(tmp_path.iterdir())
    if program == b"\x80\x04}.x":
        assert PdparamsShard(path).entries == {}
    else:
        with pytest.raises(CheckpointError):
            PdparamsShard(path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "content", [[1, 2], {"weight": "text"}, {"weight": {"inner": 1}}, {1: np.zeros(2, np.float32)}]
)
def test_a_file_that_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(CheckpointError, match="expected a"):
        PdparamsShard(path)


@pytest.mark.parametrize("dtype", ["O", ">f4", "S8", "M8[s]", [("a", "f4")]])
def test_arrays_that_are_no_weights_are_refused(dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"weight": np.zeros(3, np.dtype(dtype))}, protocol=4))
    with pytest.raises(CheckpointError):
        PdparamsShard(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "model_state.pdparams"
    state = {f"layer.{index}.weight": np.full((3, 5), index, np.float32) for index in range(4)}
    path.write_bytes(pickle.dumps(state, protocol=4))
    return path.read_bytes()


def complaint(path: Path) -> str | None:
    """Open and read a whole file; what is said about its damage, if any."""
    try:
        shard = PdparamsShard(path)
        list(shard.read(shard.entries))
    except CheckpointError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_raise_anything_else(sound: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(sound[: data.draw(st.integers(0, len(sound)), label="length")])
    for _ in range(data.draw(st.integers(0, 4), label="changes") if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(damaged)
    said = complaint(path)
    assert said is None or said.startswith("model_state.pdparams: ")


def test_layout_of_a_pdparams_folder_is_paddle(tmp_path: Path) -> None:
    write_sample(tmp_path, PDPARAMS)
    checkpoint = open_checkpoint(tmp_path, read_model_config(tmp_path))
    assert checkpoint.layout == PADDLE.layout
    assert "1 of 1 files claim paddle orientation" in checkpoint.evidence[-1]
