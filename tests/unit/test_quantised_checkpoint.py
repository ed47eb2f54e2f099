"""`internvl checkpoint quantize`: what it writes, and that computing from it equals quantising at load."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoint_samples import small_config
from safetensors.numpy import load_file, save_file

from internvl.checkpoint import open_checkpoint
from internvl.checkpoint.weight_format import WeightFormat, quantised, stored
from internvl.cli.checkpoint import command
from internvl.cli.main import main
from internvl.cli.registry import GROUP, Registry
from internvl.errors import CheckpointError, ConfigError
from internvl.model_choice import ModelChoice
from internvl.model_config import read_model_config
from kernels.native.library import Library
from kernels.native.packed import pack
from llm_service.loading import open_device, open_model
from llm_service.model.batch import Chunk
from llm_service.model.rope import RopeRegime
from tests.unit.llm_samples import write_tiny_model
from vision_service.loading import open_model as open_vision

NANO = Path(__file__).parents[2] / "models/nano"
CODED = [form for form in WeightFormat if form.levels is not None]
SHAPES = [(1, 1), (7, 5), (138, 192), (64, 588), (70, 2304), (300, 1024)]


def run(*arguments: object) -> int:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("checkpoint", "internvl.cli.checkpoint:command", GROUP)
    return main(["checkpoint", *map(str, arguments)], Registry([entry]))


def quantise(source: Path, target: Path, form: WeightFormat) -> Path:
    flag = "--dtype" if form is WeightFormat.BFLOAT16 else "--quantize"
    assert run("quantize", source, target, flag, form.value) == 0
    return target


@pytest.mark.parametrize("form", CODED)
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_chosen_here_are_those_of_the_native_operators(
    levelled: Library, form: WeightFormat, shape: tuple[int, int]
) -> None:
    """At every level: panels packed from numbers and from codes are equal to the last bit."""
    weight = np.random.default_rng(0).standard_normal(shape, np.float32) ** 3
    for numbers in (weight, weight.astype(ml_dtypes.bfloat16), np.round(weight, 1)):
        ours, theirs = pack(quantised(numbers, form), form, levelled), pack(numbers, form, levelled)
        np.testing.assert_array_equal(ours.memory, theirs.memory)


@pytest.mark.parametrize("form", CODED)
def test_what_is_written_is_what_the_documentation_says(form: WeightFormat, tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source")
    target = quantise(source, tmp_path / "target", form)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, target))
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    assert name not in after
    codes = after.pop(f"{name}.codes")
    if form is WeightFormat.W4:
        codes = np.stack([codes % 16, codes // 16], -1).reshape(*codes.shape[:2], -1)
    scales, lows = (after.pop(f"{name}.{part}").astype(np.float32)[..., None] for part in ("scales", "lows"))
    weights = (lows + scales * codes).reshape(len(codes), -1)[:, : before[name].shape[1]]
    np.testing.assert_array_equal(weights, stored(before[name], form))
    kept = before.keys() & after.keys()
    assert "language_model.model.embed_tokens.weight" in kept
    assert "vision_model.encoder.layers.0.mlp.fc1.bias" in kept
    for each in kept:
        np.testing.assert_array_equal(before[each], after[each])
    assert read_model_config(target).weight_format == form.value


@pytest.mark.parametrize("form", [*CODED, WeightFormat.BFLOAT16])
def test_nano_computes_the_same_from_the_copy_as_quantised_at_load(
    form: WeightFormat, tmp_path: Path
) -> None:
    copy = quantise(NANO, tmp_path / "copy", form)
    ids = np.arange(3, 60, dtype=np.int64)
    tiles = np.random.default_rng(0).standard_normal((1, 3, 448, 448), np.float32)
    logits, embeddings = [], []
    for choice in (ModelChoice(NANO, weights=form.value), ModelChoice(copy)):
        vision = open_vision(choice)
        side = vision.tiling.tile_size
        embeddings.append(vision.load_encoder("cpu", None).encode(tiles[:, :, :side, :side]))
        loaded = open_model(choice)
        decoder = loaded.load_decoder(open_device(choice, loaded.config))
        decoder.open_cache(8, 16)
        chunk = Chunk(ids, (), 0, range(8), RopeRegime.SHORT)
        logits.append(decoder.forward([chunk])[0])
    np.testing.assert_array_equal(*logits)
    np.testing.assert_array_equal(*embeddings)


def test_sizes_are_printed_and_shrink(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny_model(tmp_path / "source")
    quantise(source, tmp_path / "target", WeightFormat.W4)
    said = capsys.readouterr().out
    before, after = (
        sum(e.nbytes for e in open_checkpoint(folder, read_model_config(folder)).entries())
        for folder in (source, tmp_path / "target")
    )
    assert f"in w4: {before:,} bytes before, {after:,} after" in said
    assert after < before


def test_a_flag_that_contradicts_the_checkpoint_is_refused(tmp_path: Path) -> None:
    target = quantise(write_tiny_model(tmp_path / "source"), tmp_path / "target", WeightFormat.W4)
    for weights, flag in (("int8", "--quantize"), ("fp32", "--dtype")):
        for opened in (open_model, open_vision):
            with pytest.raises(
                ConfigError, match=rf"^{flag}: asks for {weights}, but the checkpoint holds w4"
            ):
                opened(ModelChoice(target, weights=weights))
    for weights in (None, "w4"):
        open_model(ModelChoice(target, weights=weights))


def test_what_was_quantised_is_neither_quantised_again_nor_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = quantise(write_tiny_model(tmp_path / "source"), tmp_path / "target", WeightFormat.INT8)
    assert run("quantize", target, tmp_path / "again", "--quantize", "w4") == 1
    assert run("convert", target, tmp_path / "again", "--to", "paddle") == 1
    assert capsys.readouterr().err.count("written in int8") == 2
    assert not (tmp_path / "again").exists()


def test_inspect_finds_it_sound_and_what_is_wrong_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = quantise(write_tiny_model(tmp_path / "source"), tmp_path / "target", WeightFormat.W8)
    assert run("inspect", target) == 0
    assert "dtype     uint8" in capsys.readouterr().out
    weights = load_file(target / "model.safetensors")
    name = "language_model.lm_head.weight"
    del weights[f"{name}.lows"]
    weights[f"{name}.codes"] = weights[f"{name}.codes"].astype(np.float32)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    assert run("inspect", target) == 1
    said = capsys.readouterr().out
    assert f"1 missing tensors: {name}.lows" in said
    assert f"whose dtype is none of uint8: {name}.codes (float32)" in said


def test_codes_beyond_the_levels_are_refused(tmp_path: Path) -> None:
    """Products would overflow without a word."""
    target = quantise(write_tiny_model(tmp_path / "source"), tmp_path / "target", WeightFormat.INT8)
    weights = load_file(target / "model.safetensors")
    name = "language_model.model.layers.1.mlp.down_proj.weight.codes"
    weights[name][3, 0, 1] = 128
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(target, read_model_config(target))
    with pytest.raises(CheckpointError, match=f"{name}: a code of 128, where 127 is the greatest"):
        list(checkpoint.load("language_model."))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"name": "w4", "version": 1}, r"weight_format\.version: 1 is not known here, only 2"),
        ({"name": "w3", "version": 2}, r"weight_format\.name: 'w3' is not one of"),
        ({"name": "w4"}, r"weight_format\.version: missing"),
        ("w4", r"weight_format: expected dict"),
    ],
)
def test_unknown_formats_are_refused(value: object, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small_config() | {"weight_format": value}))
    with pytest.raises(ConfigError, match=complaint):
        read_model_config(tmp_path)
    assert command.name == "checkpoint"
