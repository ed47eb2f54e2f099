"""Random checkpoints and the shape table of the series."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoint_samples import PADDLE, assert_bit_equal, read_all, small_config, write_sample
from transformers import LlamaTokenizer

from internvl.checkpoint import (
    SERIES,
    Part,
    TensorKind,
    expected_tensors,
    random_tensors,
    series_config,
    write_random_checkpoint,
)
from internvl.errors import CheckpointError, ConfigError
from internvl.model_config import parse_model_config
from llm_service.text.template import check_tokenizer
from llm_service.text.tokenizer import Tokenizer

# Parameters as the InternVL2 model cards give them.
PUBLISHED = {
    "InternVL2-1B": (637, 938_158_976),
    "InternVL2-2B": (517, 2_205_754_368),
    "InternVL2-4B": (541, 4_146_855_936),
    "InternVL2-8B": (573, 8_075_365_376),
    "InternVL2-26B": (934, 25_514_186_112),
    "InternVL2-40B": (1138, 40_068_684_160),
    "InternVL2-76B": (1318, 76_262_358_400),
}


@pytest.mark.parametrize("name", SERIES)
def test_full_size_counts(name: str) -> None:
    specs = expected_tensors(parse_model_config(series_config(name)))
    assert (len(specs), sum(spec.parameters for spec in specs.values())) == PUBLISHED[name]


def test_the_parts_of_4b_add_up() -> None:
    specs = expected_tensors(parse_model_config(series_config("InternVL2-4B"))).values()
    counts = {
        part: (len(sizes), sum(sizes))
        for part in Part
        if (sizes := [spec.parameters for spec in specs if spec.part is part])
    }
    assert counts == {
        Part.VISION: (340, 304_012_288),
        Part.PROJECTOR: (6, 22_034_432),
        Part.DECODER: (195, 3_820_809_216),
    }


def test_the_6b_tower_has_its_own_keys() -> None:
    specs = expected_tensors(parse_model_config(series_config("InternVL2-26B")))
    block = "vision_model.encoder.layers.44."
    assert specs[f"{block}attn.q_norm.weight"].shape == (3200,)
    assert f"{block}attn.qkv.bias" not in specs
    assert f"{block}norm1.bias" not in specs
    assert specs["language_model.model.layers.0.attention.wqkv.weight"].shape == (8192, 6144)


def test_rope_factors_are_those_of_april_2024() -> None:
    scaling = series_config("InternVL2-4B")["llm_config"]["rope_scaling"]
    short, long = scaling["short_factor"], scaling["long_factor"]
    assert (len(short), short[0], short[11], short[-1]) == (48, 1.05, 2.000000000000001, 2.9499999999999975)
    assert (len(long), long[0], long[11], long[-1]) == (
        48,
        1.0299999713897705,
        2.859999895095825,
        64.81001281738281,
    )
    assert short == sorted(short)
    assert long == sorted(long)


def test_one_config_does_not_leak_into_another() -> None:
    changed = series_config("InternVL2-4B")
    changed["vision_config"]["hidden_size"] = 7
    changed["llm_config"]["rope_scaling"]["long_factor"].clear()
    assert series_config("InternVL2-8B")["vision_config"]["hidden_size"] == 1024
    assert len(series_config("InternVL2-4B")["llm_config"]["rope_scaling"]["long_factor"]) == 48


def test_a_seed_gives_the_same_weights_in_every_layout(tmp_path: Path) -> None:
    first = read_all(write_sample(tmp_path / "hf"))
    assert_bit_equal(first, read_all(write_sample(tmp_path / "paddle", PADDLE)))
    write_random_checkpoint(tmp_path / "other", small_config(), seed=8)
    other = read_all(tmp_path / "other")
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_a_tensor_does_not_depend_on_its_neighbours() -> None:
    specs = list(expected_tensors(parse_model_config(small_config())).values())
    whole = dict(random_tensors(specs, 3, "float32"))
    assert_bit_equal(
        {name: whole[name] for name in whole}, dict(random_tensors(reversed(specs), 3, "float32"))
    )


def test_scales_are_plausible() -> None:
    specs = expected_tensors(parse_model_config(small_config()))
    for name, array in random_tensors(specs.values(), 0, "float32"):
        kind = specs[name].kind
        assert abs(array.mean() - (1.0 if kind is TensorKind.GAIN else 0.0)) < 0.1, name
        if kind is TensorKind.LINEAR:
            assert array.std() == pytest.approx(array.shape[1] ** -0.5, rel=0.15), name
        assert array.std() > 0.005, name


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not an empty folder"):
        write_random_checkpoint(tmp_path, small_config())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_disk_too_small_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match=r"not enough disk space: needs \d+ bytes, 1000 are free"):
        write_random_checkpoint(tmp_path / "new", small_config())
    assert not list((tmp_path / "new").glob("model*"))


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with the vocabulary of the released 4B."""
    folder = tmp_path_factory.mktemp("phi3")
    raw = small_config()
    raw["llm_config"]["vocab_size"] = 32020
    assert write_random_checkpoint(folder, raw)
    return folder


def test_the_made_up_tokenizer_has_the_released_ids(phi3: Path) -> None:
    slow = LlamaTokenizer.from_pretrained(phi3, legacy=False)
    assert len(slow) == 32020
    expected = {
        "<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 13, "\u2581": 29871, "<|endoftext|>": 32000,
        "<|assistant|>": 32001, "<|system|>": 32006, "<|end|>": 32007, "<|user|>": 32010, "<img>": 32011,
        "</img>": 32012, "<IMG_CONTEXT>": 32013, "<quad>": 32014, "</box>": 32019,
    }  # fmt: skip
    assert {token: slow.convert_tokens_to_ids(token) for token in expected} == expected
    assert slow("<|system|>\nhello<|end|>")["input_ids"][:3] == [1, 29871, 32006]


@pytest.mark.parametrize("text", ["hello world", "  two  spaces\n", "书生多模态", "smile \U0001f600", "A1!"])
def test_any_text_survives_the_made_up_tokenizer(phi3: Path, text: str) -> None:
    slow = LlamaTokenizer.from_pretrained(phi3, legacy=False)
    assert slow.decode(slow(text, add_special_tokens=False)["input_ids"]) == text


def test_the_service_accepts_the_made_up_tokenizer(phi3: Path) -> None:
    raw = series_config("InternVL2-4B")
    check_tokenizer(Tokenizer.load(phi3), parse_model_config(raw))


def test_no_tokenizer_is_made_up_for_other_models_or_tiny_vocabularies(tmp_path: Path) -> None:
    assert not write_random_checkpoint(tmp_path / "other", small_config("InternVL2-2B"))
    assert not write_random_checkpoint(tmp_path / "tiny", small_config())
    assert not list(tmp_path.glob("*/tokenizer*"))


def test_an_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown model 'InternVL2-3B'; known: InternVL2-1B, "):
        series_config("InternVL2-3B")
