"""Opening a checkpoint: what is accepted, what is refused, and what the caller gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoint_samples import PADDLE, PDPARAMS, assert_bit_equal, read_all, small_config, write_sample
from safetensors.numpy import load_file, save_file

from internvl.checkpoint import SERIES, WriteOptions, expected_tensors, open_checkpoint
from internvl.errors import CheckpointError
from internvl.model_config import parse_model_config, read_model_config

Weights = dict[str, Any]
QKV = "language_model.model.layers.1.self_attn.qkv_proj.weight"
SQUARE = (
    "language_model.model.layers.0.self_attn.o_proj.weight",
    "vision_model.encoder.layers.1.attn.proj.weight",
    "mlp1.3.weight",
)


def edit(folder: Path, change: Callable[[Weights], object], metadata: dict[str, str] | None = None) -> Path:
    """Rewrite the one weight file of `folder` with the library's own writer."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, read_model_config(folder))
    return str(caught.value)


@pytest.mark.parametrize("name", SERIES)
def test_every_architecture_opens_and_holds_exactly_what_its_config_says(name: str, tmp_path: Path) -> None:
    arrays = read_all(write_sample(tmp_path, name=name))
    specs = expected_tensors(parse_model_config(small_config(name)))
    assert {key: array.shape for key, array in arrays.items()} == {
        key: spec.shape for key, spec in specs.items()
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("options", [PADDLE, PDPARAMS], ids=["safetensors", "pdparams"])
@pytest.mark.parametrize("name", SERIES)
def test_a_paddle_checkpoint_gives_the_arrays_of_its_twin(
    name: str, options: WriteOptions, tmp_path: Path
) -> None:
    hf = read_all(write_sample(tmp_path / "hf", name=name))
    paddle = read_all(write_sample(tmp_path / "paddle", options, name=name))
    assert_bit_equal(hf, paddle)


def test_square_weights_follow_the_decision_of_the_whole_file(tmp_path: Path) -> None:
    """Transposed on disk, equal in memory, although the shape alone could not tell."""
    hf = read_all(write_sample(tmp_path / "hf"))
    stored = load_file(write_sample(tmp_path / "paddle", PADDLE) / "model.safetensors")
    loaded = read_all(tmp_path / "paddle")
    for name in SQUARE:
        assert np.array_equal(stored[name], hf[name].T)
        assert not np.array_equal(stored[name], hf[name])
        assert np.array_equal(loaded[name], hf[name])


def test_a_transposed_weight_is_contiguous_again_without_a_copy(tmp_path: Path) -> None:
    assert read_all(write_sample(tmp_path, PADDLE))[QKV].T.flags.c_contiguous


def test_mixed_orientation_is_refused_with_both_sides_named(tmp_path: Path) -> None:
    def transpose_one(weights: Weights) -> None:
        weights[QKV] = np.ascontiguousarray(weights[QKV].T)

    message = refusal(edit(write_sample(tmp_path), transpose_one))
    assert "contradictory layout" in message
    assert f"1 non-square Linear weights have paddle orientation, for example {QKV} [48, 144]" in message
    assert "have hf orientation" in message


def test_a_file_that_claims_the_other_layout_is_refused(tmp_path: Path) -> None:
    message = refusal(edit(write_sample(tmp_path, PADDLE), lambda weights: None, {"format": "pt"}))
    assert "contradictory layout" in message
    assert "1 of 1 files claim hf orientation" in message


@pytest.mark.parametrize("metadata", [None, {"format": "np"}])
def test_without_a_claim_the_shapes_decide(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    hf = read_all(write_sample(tmp_path / "hf"))
    edit(write_sample(tmp_path / "paddle", PADDLE), lambda weights: None, metadata)
    assert_bit_equal(hf, read_all(tmp_path / "paddle"))


def test_bfloat16_stored_as_unsigned_bits_is_read_as_bfloat16(tmp_path: Path) -> None:
    def reinterpret(weights: Weights) -> None:
        for name in weights:
            weights[name] = weights[name].view(np.uint16)

    expected = read_all(write_sample(tmp_path / "plain"))
    edit(write_sample(tmp_path / "bits"), reinterpret)
    assert_bit_equal(expected, read_all(tmp_path / "bits"))


def test_every_missing_tensor_is_listed(tmp_path: Path) -> None:
    gone = [QKV, "mlp1.0.bias", "vision_model.embeddings.class_embedding"]
    message = refusal(edit(write_sample(tmp_path), lambda weights: [weights.pop(name) for name in gone]))
    assert "3 missing tensors" in message
    assert all(name in message for name in gone)


def test_missing_surplus_and_misshaped_are_reported_together(tmp_path: Path) -> None:
    def damage(weights: Weights) -> None:
        weights["mlp1.9.weight"] = weights.pop("mlp1.3.bias")
        weights["mlp1.1.bias"] = np.zeros(5, np.float32)

    message = refusal(edit(write_sample(tmp_path), damage))
    assert "1 missing tensors: mlp1.3.bias" in message
    assert "1 surplus tensors: mlp1.9.weight" in message
    assert "1 mis-shaped tensors: mlp1.1.bias (expected [48], found [5])" in message


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    def add_many(weights: Weights) -> None:
        weights.update({f"extra.{index:03d}": np.zeros(1, np.float32) for index in range(250)})

    message = refusal(edit(write_sample(tmp_path), add_many))
    assert "250 surplus tensors: extra.000, " in message
    assert message.endswith("extra.099 and 150 more")


def test_rotary_buffers_are_tolerated_and_not_handed_out(tmp_path: Path) -> None:
    buffer = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(write_sample(tmp_path), lambda weights: weights.update({buffer: np.ones(6, np.float32)}))
    assert buffer not in read_all(tmp_path)


def test_weights_must_be_floating_point(tmp_path: Path) -> None:
    def quantise(weights: Weights) -> None:
        weights["mlp1.3.bias"] = np.zeros(48, np.int8)

    assert "mlp1.3.bias (I8)" in refusal(edit(write_sample(tmp_path), quantise))


def test_a_config_of_another_shape_is_told_tensor_by_tensor(tmp_path: Path) -> None:
    raw = small_config()
    raw["llm_config"]["vocab_size"] = 121
    write_sample(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    message = refusal(tmp_path)
    assert "2 mis-shaped tensors" in message
    assert "language_model.lm_head.weight (expected [121, 48], found [120, 48])" in message


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    assert "looked for model.safetensors, model.safetensors.index.json, model_state.pdparams" in refusal(
        tmp_path
    )


def test_two_sets_of_weights_are_ambiguous(tmp_path: Path) -> None:
    write_sample(tmp_path)
    (tmp_path / "model_state.pdparams").write_bytes(b"")
    assert "more than one set of weights" in refusal(tmp_path)


def shard(folder: Path) -> Path:
    return write_sample(folder, WriteOptions(max_shard_bytes=50_000))


def rewrite_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))


def test_shards_give_the_same_arrays_as_one_file(tmp_path: Path) -> None:
    sharded = shard(tmp_path / "many")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert_bit_equal(read_all(write_sample(tmp_path / "one")), read_all(sharded))


def test_a_missing_shard_file_is_named(tmp_path: Path) -> None:
    first = sorted(shard(tmp_path).glob("model-*.safetensors"))[0]
    first.unlink()
    assert f"names 1 missing files: {first.name}" in refusal(tmp_path)


def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path: Path) -> None:
    rewrite_index(shard(tmp_path), lambda weight_map: weight_map.update({"mlp1.3.bias": weight_map[QKV]}))
    assert "1 tensors not where the index says: mlp1.3.bias" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", ".hidden", "a/b.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    rewrite_index(shard(tmp_path), lambda weight_map: weight_map.update({QKV: name}))
    assert "shard names must be plain file names" in refusal(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    first, second, *_ = sorted(shard(tmp_path).glob("model-*.safetensors"))
    name, array = next(iter(load_file(second).items()))
    save_file(load_file(first) | {name: array}, first, {"format": "pt"})
    assert f"1 tensors held by more than one file: {name}" in refusal(tmp_path)


def test_a_prefix_selects_tensors_and_progress_counts_their_bytes(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(shard(tmp_path), read_model_config(tmp_path))
    calls: list[tuple[int, int]] = []
    arrays = dict(
        checkpoint.tensors(("mlp1.", "vision_model."), lambda done, total: calls.append((done, total)))
    )
    assert arrays
    assert all(name.startswith(("mlp1.", "vision_model.")) for name in arrays)
    total = sum(array.nbytes for array in arrays.values())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_the_fingerprint_names_the_weights_and_not_the_files(tmp_path: Path) -> None:
    def fingerprint(folder: Path, prefix: str = "vision_model.") -> str:
        return open_checkpoint(folder, read_model_config(folder)).fingerprint(prefix)

    one = fingerprint(write_sample(tmp_path / "one"))
    assert one == fingerprint(shard(tmp_path / "many"))
    assert one == fingerprint(write_sample(tmp_path / "paddle", PDPARAMS))
    assert one != fingerprint(tmp_path / "one", "mlp1.")

    def flip_last_bit(weights: Weights) -> None:
        weights["vision_model.encoder.layers.1.ls2"].view(np.uint16)[-1] ^= 1

    assert one != fingerprint(edit(tmp_path / "one", flip_last_bit))
