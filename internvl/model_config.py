"""The model's own numbers: `config.json` of a released InternVL2 checkpoint, as frozen dataclasses.

Every value comes from the file. A key that the model needs and the file lacks is an error, because the
reference's class defaults describe another model (InternViT-6B) and would be silently wrong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl.config_keys import ConfigKeys
from internvl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """InternViT tower. Sizes in channels; `image_size` and `patch_size` in pixels."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    num_channels: int
    qkv_bias: bool
    qk_normalization: bool
    norm_type: str
    layer_norm_eps: float
    hidden_act: str

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.patches_per_side**2


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Long-context rotary scaling; one factor per rotary frequency (head_dim / 2 of them)."""

    type: str
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """The decoder. `architecture` is the class name in the file; only Phi3ForCausalLM is served."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    original_max_position_embeddings: int
    rope_scaling: RopeScaling | None
    hidden_act: str
    attention_bias: bool
    tie_word_embeddings: bool
    sliding_window: int | None
    bos_token_id: int
    eos_token_id: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True)
class InternVLConfig:
    """A whole checkpoint: tower, projector and decoder.

    Attributes:
        weight_format: how matrices are held that `internvl checkpoint quantize` wrote; of others None.
    """

    vision: VisionConfig
    llm: LlmConfig
    template: str
    select_layer: int
    ps_version: str
    downsample_ratio: float
    force_image_size: int
    dynamic_image_size: bool
    use_thumbnail: bool
    min_dynamic_patch: int
    max_dynamic_patch: int
    torch_dtype: str
    weight_format: str | None = None

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile of `force_image_size`: its patches, less the pixel shuffle's square."""
        patches = (self.force_image_size // self.vision.patch_size) ** 2
        return int(patches * self.downsample_ratio**2)

    @property
    def projector_input_size(self) -> int:
        """Channels of one pixel-shuffled token, the projector's input."""
        return self.vision.hidden_size * round(1 / self.downsample_ratio) ** 2


def read_model_config(folder: Path) -> InternVLConfig:
    """Read `folder/config.json`.

    Raises:
        ConfigError: no such file, not JSON, a missing key, a wrong type or value, or an unknown architecture.
    """
    return parse_model_config(load_raw_config(folder / "config.json"))


def load_raw_config(file: Path) -> dict[str, Any]:
    """Read a config file as parsed JSON, its values unchecked.

    Raises:
        ConfigError: no such file, or not a JSON object.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); a checkpoint needs a config.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a JSON object, found {type(raw).__name__}")
    return raw


def parse_model_config(raw: Mapping[str, Any]) -> InternVLConfig:
    """Build the config from the parsed JSON of a released checkpoint.

    Raises:
        ConfigError: as `read_model_config`.
    """
    keys = ConfigKeys(raw)
    keys.architecture(("InternVLChatModel",))
    config = InternVLConfig(
        vision=_vision(keys.inner("vision_config")),
        llm=_llm(keys.inner("llm_config")),
        template=keys.get("template", str),
        select_layer=keys.get("select_layer", int),
        ps_version=keys.one_of("ps_version", ("v1", "v2")),
        downsample_ratio=keys.positive("downsample_ratio"),
        force_image_size=keys.count("force_image_size"),
        dynamic_image_size=keys.get("dynamic_image_size", bool),
        use_thumbnail=keys.get("use_thumbnail", bool),
        min_dynamic_patch=keys.count("min_dynamic_patch"),
        max_dynamic_patch=keys.count("max_dynamic_patch"),
        torch_dtype=keys.one_of("torch_dtype", ("bfloat16", "float16", "float32")),
        weight_format=_weight_format(keys),
    )
    _check_tiles(config)
    return config


WEIGHT_FORMATS = ("bf16", "int8", "w8", "w4")
WEIGHT_FORMAT_VERSION = 2


def _weight_format(keys: ConfigKeys) -> str | None:
    if keys.optional("weight_format", dict) is None:
        return None
    inner = keys.inner("weight_format")
    version = inner.get("version", int)
    if version != WEIGHT_FORMAT_VERSION:
        raise inner.wrong("version", f"{version} is not known here, only {WEIGHT_FORMAT_VERSION}")
    return inner.one_of("name", WEIGHT_FORMATS)


def _check_tiles(config: InternVLConfig) -> None:
    """The grid of patches must fold evenly, and the tower must have the layer that is read out."""
    if config.force_image_size % config.vision.patch_size:
        raise ConfigError(
            f"force_image_size: {config.force_image_size} is not a multiple of the patch size, "
            f"{config.vision.patch_size}"
        )
    fold = 1 / config.downsample_ratio
    side = config.force_image_size // config.vision.patch_size
    if fold != round(fold) or side % round(fold):
        raise ConfigError(
            f"downsample_ratio: {config.downsample_ratio} does not fold a grid of {side} x {side} patches"
        )
    layers = config.vision.num_hidden_layers
    if not -layers - 1 <= config.select_layer <= layers:
        raise ConfigError(
            f"select_layer: {config.select_layer} is not among {layers} layers and the embedding"
        )
    if config.min_dynamic_patch > config.max_dynamic_patch:
        raise ConfigError(f"min_dynamic_patch: {config.min_dynamic_patch} is over max_dynamic_patch")


def _vision(keys: ConfigKeys) -> VisionConfig:
    config = VisionConfig(
        hidden_size=keys.count("hidden_size"),
        num_hidden_layers=keys.count("num_hidden_layers"),
        num_attention_heads=keys.count("num_attention_heads"),
        intermediate_size=keys.count("intermediate_size"),
        image_size=keys.count("image_size"),
        patch_size=keys.count("patch_size"),
        num_channels=keys.count("num_channels"),
        qkv_bias=keys.get("qkv_bias", bool),
        qk_normalization=keys.get("qk_normalization", bool),
        norm_type=keys.one_of("norm_type", ("layer_norm", "rms_norm")),
        layer_norm_eps=keys.positive("layer_norm_eps"),
        hidden_act=keys.one_of("hidden_act", ("gelu",)),
    )
    _check_divides(keys, "num_attention_heads", config.num_attention_heads, config.hidden_size)
    _check_divides(keys, "patch_size", config.patch_size, config.image_size)
    return config


LLM_ARCHITECTURES = ("Phi3ForCausalLM", "InternLM2ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM")


def _llm(keys: ConfigKeys) -> LlmConfig:
    architecture = keys.architecture(LLM_ARCHITECTURES)
    max_positions = keys.count("max_position_embeddings")
    scaling = keys.optional("rope_scaling", dict)
    config = LlmConfig(
        architecture=architecture,
        vocab_size=keys.count("vocab_size"),
        hidden_size=keys.count("hidden_size"),
        intermediate_size=keys.count("intermediate_size"),
        num_hidden_layers=keys.count("num_hidden_layers"),
        num_attention_heads=keys.count("num_attention_heads"),
        num_key_value_heads=keys.count("num_key_value_heads"),
        rms_norm_eps=keys.positive("rms_norm_eps"),
        rope_theta=keys.positive("rope_theta"),
        max_position_embeddings=max_positions,
        original_max_position_embeddings=keys.optional("original_max_position_embeddings", int)
        or max_positions,
        rope_scaling=_rope_scaling(keys.inner("rope_scaling")) if scaling else None,
        hidden_act=keys.one_of("hidden_act", ("silu",)),
        attention_bias=bool(keys.optional("attention_bias", bool)),
        tie_word_embeddings=keys.get("tie_word_embeddings", bool),
        sliding_window=keys.optional("sliding_window", int),
        bos_token_id=keys.get("bos_token_id", int),
        eos_token_id=keys.get("eos_token_id", int),
    )
    _check_divides(keys, "num_attention_heads", config.num_attention_heads, config.hidden_size)
    _check_divides(keys, "num_key_value_heads", config.num_key_value_heads, config.num_attention_heads)
    _check_frequencies(config)
    return config


def _check_divides(keys: ConfigKeys, key: str, value: int, whole: int) -> None:
    if whole % value:
        raise keys.wrong(key, f"{value} does not divide {whole}")


def _check_frequencies(config: LlmConfig) -> None:
    """Rotary position needs pairs of channels, and a factor for each pair."""
    if config.head_dim % 2:
        raise ConfigError(
            f"llm_config.hidden_size: heads of {config.head_dim} channels cannot be rotated in pairs"
        )
    if config.rope_scaling is None:
        return
    for key in ("short_factor", "long_factor"):
        found = len(getattr(config.rope_scaling, key))
        if found != config.head_dim // 2:
            raise ConfigError(
                f"llm_config.rope_scaling.{key}: expected {config.head_dim // 2} factors, found {found}"
            )


def _rope_scaling(keys: ConfigKeys) -> RopeScaling | None:
    kind = keys.one_of("type", ("su", "longrope", "dynamic"))
    if kind == "dynamic":
        return None
    return RopeScaling(
        type=kind,
        short_factor=keys.factors("short_factor"),
        long_factor=keys.factors("long_factor"),
    )
