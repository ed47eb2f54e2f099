"""The model's own numbers: `config.json` of a released InternVL2 checkpoint, as frozen dataclasses.

Every value comes from the file. A key that the model needs and the file lacks is an error, because the
reference's class defaults describe another model (InternViT-6B) and would be silently wrong here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from internvl.errors import ConfigError

T = TypeVar("T")


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
    """A whole checkpoint: tower, projector and decoder."""

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

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile: patches, less the pixel shuffle's square."""
        return int(self.vision.num_patches * self.downsample_ratio**2)

    @property
    def projector_input_size(self) -> int:
        """Channels of one pixel-shuffled token, the projector's input."""
        return self.vision.hidden_size * round(1 / self.downsample_ratio) ** 2


def read_model_config(folder: Path) -> InternVLConfig:
    """Read `folder/config.json`.

    Raises:
        ConfigError: no such file, not JSON, a missing key, a wrong type or an unknown architecture.
    """
    file = folder / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; a checkpoint folder needs a config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid JSON ({error})") from None
    return parse_model_config(raw)


def parse_model_config(raw: Mapping[str, Any]) -> InternVLConfig:
    """Build the config from the parsed JSON of a released checkpoint.

    Raises:
        ConfigError: as `read_model_config`.
    """
    keys = _Keys(raw, "")
    if "InternVLChatModel" not in keys.get("architectures", list):
        raise ConfigError(f"architectures: expected InternVLChatModel, found {raw['architectures']}")
    return InternVLConfig(
        vision=_vision(keys.inner("vision_config")),
        llm=_llm(keys.inner("llm_config")),
        template=keys.get("template", str),
        select_layer=keys.get("select_layer", int),
        ps_version=keys.one_of("ps_version", ("v1", "v2")),
        downsample_ratio=keys.get("downsample_ratio", float),
        force_image_size=keys.get("force_image_size", int),
        dynamic_image_size=keys.get("dynamic_image_size", bool),
        use_thumbnail=keys.get("use_thumbnail", bool),
        min_dynamic_patch=keys.get("min_dynamic_patch", int),
        max_dynamic_patch=keys.get("max_dynamic_patch", int),
        torch_dtype=keys.get("torch_dtype", str),
    )


def _vision(keys: _Keys) -> VisionConfig:
    return VisionConfig(
        hidden_size=keys.get("hidden_size", int),
        num_hidden_layers=keys.get("num_hidden_layers", int),
        num_attention_heads=keys.get("num_attention_heads", int),
        intermediate_size=keys.get("intermediate_size", int),
        image_size=keys.get("image_size", int),
        patch_size=keys.get("patch_size", int),
        num_channels=keys.get("num_channels", int),
        qkv_bias=keys.get("qkv_bias", bool),
        qk_normalization=keys.get("qk_normalization", bool),
        norm_type=keys.one_of("norm_type", ("layer_norm", "rms_norm")),
        layer_norm_eps=keys.get("layer_norm_eps", float),
        hidden_act=keys.one_of("hidden_act", ("gelu",)),
    )


LLM_ARCHITECTURES = ("Phi3ForCausalLM", "InternLM2ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM")


def _llm(keys: _Keys) -> LlmConfig:
    architecture = keys.get("architectures", list)[0]
    if architecture not in LLM_ARCHITECTURES:
        known = ", ".join(LLM_ARCHITECTURES)
        raise ConfigError(f"llm_config.architectures: unknown architecture {architecture!r}; known: {known}")
    max_positions = keys.get("max_position_embeddings", int)
    scaling = keys.optional("rope_scaling", dict)
    return LlmConfig(
        architecture=architecture,
        vocab_size=keys.get("vocab_size", int),
        hidden_size=keys.get("hidden_size", int),
        intermediate_size=keys.get("intermediate_size", int),
        num_hidden_layers=keys.get("num_hidden_layers", int),
        num_attention_heads=keys.get("num_attention_heads", int),
        num_key_value_heads=keys.get("num_key_value_heads", int),
        rms_norm_eps=keys.get("rms_norm_eps", float),
        rope_theta=keys.get("rope_theta", float),
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


def _rope_scaling(keys: _Keys) -> RopeScaling | None:
    kind = keys.one_of("type", ("su", "longrope", "dynamic"))
    if kind == "dynamic":
        return None
    return RopeScaling(
        type=kind,
        short_factor=tuple(float(value) for value in keys.get("short_factor", list)),
        long_factor=tuple(float(value) for value in keys.get("long_factor", list)),
    )


class _Keys:
    """Typed look-ups that name the full key in every complaint."""

    def __init__(self, raw: Mapping[str, Any], prefix: str) -> None:
        self._raw = raw
        self._prefix = prefix

    def get(self, key: str, kind: type[T]) -> T:
        if self._raw.get(key) is None:
            raise ConfigError(f"{self._prefix}{key}: missing from config.json")
        value = self.optional(key, kind)
        if value is None:
            raise ConfigError(f"{self._prefix}{key}: missing from config.json")
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        value = self._raw.get(key)
        if value is None:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return kind(value)  # type: ignore[call-arg]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{self._prefix}{key}: expected {kind.__name__}, found {type(value).__name__}")
        return value

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.get(key, str)
        if value not in allowed:
            raise ConfigError(f"{self._prefix}{key}: {value!r} is not one of {', '.join(allowed)}")
        return value

    def inner(self, key: str) -> _Keys:
        return _Keys(self.get(key, dict), f"{self._prefix}{key}.")
