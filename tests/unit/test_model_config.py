"""config.json: what is read, and what is refused with the key named."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl.checkpoint import SERIES, series_config
from internvl.errors import ConfigError
from internvl.model_config import parse_model_config, read_model_config

REQUIRED = {
    "": [
        *("architectures", "template", "select_layer", "ps_version", "downsample_ratio", "force_image_size"),
        *("dynamic_image_size", "use_thumbnail", "min_dynamic_patch", "max_dynamic_patch", "torch_dtype"),
        *("vision_config", "llm_config"),
    ],
    "vision_config": [
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size"),
        *("patch_size", "num_channels", "qkv_bias", "qk_normalization", "norm_type", "layer_norm_eps"),
        "hidden_act",
    ],
    "llm_config": [
        *("architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta"),
        *("max_position_embeddings", "hidden_act", "tie_word_embeddings", "bos_token_id", "eos_token_id"),
    ],
}
KEYS = [(section, key) for section, keys in REQUIRED.items() for key in keys]


def path_of(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def changed(path: str, value: Any) -> dict[str, Any]:
    raw = small_config()
    *outer, last = path.split(".")
    inner = raw
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return raw


@pytest.mark.parametrize("name", SERIES)
def test_every_released_size_is_read(name: str) -> None:
    config = parse_model_config(series_config(name))
    assert config.tokens_per_tile == 256
    assert config.projector_input_size == 4 * config.vision.hidden_size


def test_numbers_of_4b() -> None:
    config = parse_model_config(series_config("InternVL2-4B"))
    assert (config.vision.head_dim, config.vision.num_patches, config.projector_input_size) == (
        64,
        1024,
        4096,
    )
    assert (config.llm.head_dim, config.llm.vocab_size, config.llm.eos_token_id) == (96, 32020, 32000)
    assert config.llm.original_max_position_embeddings == 4096
    assert config.llm.rope_scaling is not None
    assert config.llm.rope_scaling.type == "su"


def test_tiles_are_as_large_as_force_image_size_says() -> None:
    config = parse_model_config(series_config("InternVL2-4B") | {"force_image_size": 224})
    assert (config.vision.image_size, config.tokens_per_tile) == (448, 64)


@pytest.mark.parametrize(("section", "key"), KEYS)
@pytest.mark.parametrize("absent", ["removed", "null"])
def test_a_missing_key_is_named_and_never_filled_in(section: str, key: str, absent: str) -> None:
    raw = small_config()
    holder = raw[section] if section else raw
    if absent == "null":
        holder[key] = None
    else:
        del holder[key]
    with pytest.raises(ConfigError, match=rf"^{path_of(section, key)}: missing from config.json$"):
        parse_model_config(raw)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_wrong_type_is_named(section: str, key: str) -> None:
    path = path_of(section, key)
    with pytest.raises(ConfigError, match=rf"^{path}: expected \w+, found set$"):
        parse_model_config(changed(path, {1, 2}))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("architectures", ["LlavaForCausalLM"], "architectures: unknown architecture"),
        ("architectures", [], "architectures: unknown architecture none"),
        ("llm_config.architectures", ["MambaForCausalLM"], "llm_config.architectures: unknown architecture"),
        ("llm_config.architectures", [["Phi3ForCausalLM"]], "llm_config.architectures: unknown architecture"),
        ("ps_version", "v3", "ps_version: 'v3' is not one of v1, v2"),
        ("torch_dtype", "int8", "torch_dtype: 'int8' is not one of bfloat16, float16, float32"),
        ("vision_config.norm_type", "group_norm", "vision_config.norm_type: 'group_norm' is not one of"),
        ("vision_config.hidden_act", "relu", "vision_config.hidden_act: 'relu' is not one of gelu"),
        (
            "vision_config.num_hidden_layers",
            0,
            "vision_config.num_hidden_layers: must be at least 1, found 0",
        ),
        (
            "vision_config.num_hidden_layers",
            True,
            "vision_config.num_hidden_layers: expected int, found bool",
        ),
        ("vision_config.num_attention_heads", 5, "vision_config.num_attention_heads: 5 does not divide 32"),
        ("vision_config.patch_size", 15, "vision_config.patch_size: 15 does not divide 56"),
        ("vision_config.layer_norm_eps", math.nan, "vision_config.layer_norm_eps: must be a positive number"),
        ("llm_config.vocab_size", -3, "llm_config.vocab_size: must be at least 1, found -3"),
        ("llm_config.num_key_value_heads", 3, "llm_config.num_key_value_heads: 3 does not divide 4"),
        ("llm_config.num_attention_heads", 16, "heads of 3 channels cannot be rotated in pairs"),
        ("llm_config.rope_theta", 0, "llm_config.rope_theta: must be a positive number, found 0.0"),
        ("llm_config.rope_scaling.type", "yarn", "llm_config.rope_scaling.type: 'yarn' is not one of"),
        ("llm_config.rope_scaling.long_factor", [1.0] * 5, "long_factor: expected 6 factors, found 5"),
        (
            "llm_config.rope_scaling.short_factor",
            [1.0] * 5 + ["x"],
            "short_factor: must hold positive numbers",
        ),
        ("llm_config.rope_scaling.short_factor", [1.0] * 5 + [math.inf], "must hold positive numbers"),
        ("force_image_size", 60, "force_image_size: 60 is not a multiple of the patch size, 14"),
        ("force_image_size", 70, "downsample_ratio: 0.5 does not fold a grid of 5 x 5 patches"),
        ("downsample_ratio", 0.3, "downsample_ratio: 0.3 does not fold a grid of 4 x 4 patches"),
        ("downsample_ratio", 0.125, "downsample_ratio: 0.125 does not fold a grid of 4 x 4 patches"),
        ("select_layer", -4, "select_layer: -4 is not among 2 layers and the embedding"),
        ("min_dynamic_patch", 13, "min_dynamic_patch: 13 is over max_dynamic_patch"),
    ],
)
def test_a_value_that_cannot_work_is_named(path: str, value: Any, message: str) -> None:
    raw = changed(path, value)
    if path == "llm_config.num_attention_heads":
        raw["llm_config"]["num_key_value_heads"] = value
    with pytest.raises(ConfigError) as caught:
        parse_model_config(raw)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"architectures": "InternVLChatModel"}', "architectures: expected list, found str"),
    ],
)
def test_a_damaged_file_is_a_config_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_model_config(tmp_path)
    assert message in str(caught.value)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a checkpoint needs a config\.json"):
        read_model_config(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from([*KEYS, ("llm_config", "rope_scaling")]), value=JSON_VALUES)
def test_no_value_crashes_the_reader(place: tuple[str, str], value: Any) -> None:
    raw = copy.deepcopy(small_config())
    section, key = place
    (raw[section] if section else raw)[key] = value
    with contextlib.suppress(ConfigError):
        parse_model_config(json.loads(json.dumps(raw)))
