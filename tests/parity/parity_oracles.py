"""Independent oracles: the same random weights in the InternVL and Phi-3 of `transformers`, on torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import InternVLConfig as HfConfig
from transformers import InternVLVisionConfig as HfVisionConfig
from transformers import Phi3Config, Phi3ForCausalLM
from transformers.modeling_utils import no_init_weights
from transformers.models.internvl.modeling_internvl import (
    InternVLModel,
    InternVLMultiModalProjector,
    InternVLVisionModel,
)

from internvl.checkpoint.random_weights import random_tensor
from internvl.checkpoint.series import series_config
from internvl.checkpoint.tensor_specs import Part, expected_tensors
from internvl.model_config import InternVLConfig, LlmConfig, RopeScaling, VisionConfig, parse_model_config

Weights = Mapping[str, np.ndarray]

RELEASED = parse_model_config(series_config("InternVL2-4B"))


def small_config(
    vision: Mapping[str, Any] | None = None, llm: Mapping[str, Any] | None = None, **top: Any
) -> InternVLConfig:
    """The released 4B configuration cut down to seconds; rope factors thinned out to the head size."""
    tower: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "image_size": 56,
    }
    decoder = {
        "vocab_size": 101,
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    tower |= dict(vision or {})
    return replace(
        RELEASED,
        vision=replace(RELEASED.vision, **tower),
        llm=_fit_factors(replace(RELEASED.llm, **(decoder | dict(llm or {})))),
        **({"force_image_size": tower["image_size"]} | top),
    )


def _fit_factors(config: LlmConfig) -> LlmConfig:
    scaling = config.rope_scaling
    if scaling is None:
        return config
    chosen = np.linspace(0, len(scaling.long_factor) - 1, config.head_dim // 2).round().astype(int)
    short = tuple(scaling.short_factor[i] for i in chosen)
    long = tuple(scaling.long_factor[i] for i in chosen)
    return replace(config, rope_scaling=RopeScaling(scaling.type, short, long))


def random_weights(config: InternVLConfig, seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Every tensor of the model, by its name in the released files."""
    return dict(RandomWeights(config, seed, dtype))


class RandomWeights(Mapping[str, np.ndarray]):
    """As `random_weights`, each tensor drawn when it is asked for: a large model need not be held twice."""

    def __init__(self, config: InternVLConfig, seed: int, dtype: str) -> None:
        self._specs = expected_tensors(config)
        self._seed = seed
        self._dtype = dtype

    def __getitem__(self, name: str) -> np.ndarray:
        return random_tensor(self._specs[name], self._seed, self._dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def vision_part(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """The stream the vision tier loads."""
    wanted = (Part.VISION.value, Part.PROJECTOR.value)
    return ((name, weights[name]) for name in weights if name.startswith(wanted))


def decoder_part(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """The stream the language tier loads."""
    return ((name, weights[name]) for name in weights if name.startswith(Part.DECODER.value))


class VisionOracle:
    """InternVL's vision tower, pixel shuffle and projector as transformers implements them, in float32."""

    def __init__(self, config: InternVLConfig, weights: Weights) -> None:
        self._config = config
        with no_init_weights():
            tower = InternVLVisionModel(_vision_config(config.vision))
        self._tower = _filled(tower, _vision_names(config.vision, weights))
        text = Phi3Config(hidden_size=config.llm.hidden_size, pad_token_id=0)
        # A vision config of its own: the one that contains it resets its attention implementation.
        projector = InternVLMultiModalProjector(
            HfConfig(_vision_config(config.vision), text, downsample_ratio=config.downsample_ratio)
        )
        names = {"layer_norm": "mlp1.0", "linear_1": "mlp1.1", "linear_2": "mlp1.3"}
        self._projector = _filled(
            projector,
            (
                (f"{hf}.{kind}", weights[f"{ours}.{kind}"])
                for hf, ours in names.items()
                for kind in ("weight", "bias")
            ),
        )

    @torch.inference_mode()
    def hidden_states(self, tiles: np.ndarray) -> list[np.ndarray]:
        """Embedding output, then the output of each block: [n, 1 + patches, hidden]."""
        state, _ = self._tower.embeddings(torch.from_numpy(tiles))
        states = [state]
        for block in self._tower.encoder.layer:
            states.append(block(states[-1]))
        return [state.numpy() for state in states]

    @torch.inference_mode()
    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """[n, tokens, llm_hidden], pixel shuffle v2."""
        patches = torch.from_numpy(self.hidden_states(tiles)[self._config.select_layer][:, 1:])
        count, tokens, channels = patches.shape
        side = round(tokens**0.5)
        image = patches.reshape(count, side, side, channels)
        shuffled = InternVLModel.pixel_shuffle(None, image, self._config.downsample_ratio)
        return self.project(shuffled.reshape(count, -1, shuffled.shape[-1]).numpy())

    @torch.inference_mode()
    def project(self, tokens: np.ndarray) -> np.ndarray:
        """[n, tokens, shuffled] -> [n, tokens, llm_hidden]."""
        return self._projector(torch.from_numpy(tokens)).numpy()


def decoder_oracle(config: LlmConfig, weights: Weights, attention: str = "eager") -> Phi3ForCausalLM:
    """Phi-3 as transformers implements it, in float32."""
    scaling = config.rope_scaling
    hf_config = Phi3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.max_position_embeddings,
        original_max_position_embeddings=config.original_max_position_embeddings,
        rope_scaling=scaling
        and {
            "type": scaling.type,
            "short_factor": list(scaling.short_factor),
            "long_factor": list(scaling.long_factor),
        },
        sliding_window=config.sliding_window,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation=attention,
    )
    with no_init_weights():
        model = Phi3ForCausalLM(hf_config)
    model.tie_weights()
    prefix = Part.DECODER.value
    return _filled(model, ((name.removeprefix(prefix), array) for name, array in decoder_part(weights)))


@torch.inference_mode()
def oracle_logits(oracle: Phi3ForCausalLM, ids: np.ndarray | None = None, **inputs: Any) -> np.ndarray:
    """Logits of one sequence without a cache, float32 [n, vocab]."""
    if ids is not None:
        inputs["input_ids"] = torch.from_numpy(ids)[None]
    return oracle(**inputs, use_cache=False).logits[0].numpy()


def _vision_config(config: VisionConfig) -> HfVisionConfig:
    return HfVisionConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        attention_bias=config.qkv_bias,
        use_qk_norm=config.qk_normalization,
        intermediate_size=config.intermediate_size,
        norm_type=config.norm_type,
        layer_norm_eps=config.layer_norm_eps,
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        attn_implementation="eager",
    )


_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _vision_names(config: VisionConfig, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    stem = f"{Part.VISION.value}embeddings."
    yield "embeddings.cls_token", weights[f"{stem}class_embedding"]
    yield "embeddings.position_embeddings", weights[f"{stem}position_embedding"]
    for kind in ("weight", "bias"):
        yield f"embeddings.patch_embeddings.projection.{kind}", weights[f"{stem}patch_embedding.{kind}"]
    for index in range(config.num_hidden_layers):
        ours, theirs = f"{Part.VISION.value}encoder.layers.{index}.", f"encoder.layer.{index}."
        yield f"{theirs}lambda_1", weights[f"{ours}ls1"]
        yield f"{theirs}lambda_2", weights[f"{ours}ls2"]
        for kind in ("weight", "bias"):
            for old, new in _BLOCK_NAMES.items():
                if f"{ours}{old}.{kind}" in weights:
                    yield f"{theirs}{new}.{kind}", weights[f"{ours}{old}.{kind}"]
            if f"{ours}attn.qkv.{kind}" in weights:
                parts = np.split(weights[f"{ours}attn.qkv.{kind}"], 3)
                for name, part in zip("qkv", parts, strict=True):
                    yield f"{theirs}attention.{name}_proj.{kind}", part


def _filled(module: Any, stream: Iterable[tuple[str, np.ndarray]]) -> Any:
    """The module with exactly these weights, copied one by one; a missing or surplus name is an error."""
    module = module.eval().float()
    empty = dict(module.named_parameters())
    with torch.no_grad():
        for name, array in stream:
            parameter = empty.pop(name)
            assert parameter.shape == array.shape, name
            parameter.copy_(torch.from_numpy(np.array(array, dtype=np.float32)))
    assert not empty, f"left at random: {sorted(empty)}"
    return module
