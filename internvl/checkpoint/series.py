"""The released shapes: config.json of each InternVL2 size, as far as shape and arithmetic depend on it.

Sources: InternVL configuration_intern_vit.py and configuration_internvl_chat.py, the fine-tune scripts of
InternVL 2.0, and the language models' own files; the Phi-3 rope factors are those of the April 2024
revision of Phi-3-mini-128k-instruct. A real checkpoint always brings its own config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from internvl.errors import ConfigError

_SHORT_FACTOR = (
    *(1.05, 1.05, 1.05, 1.1, 1.1, 1.1500000000000001, 1.2000000000000002, 1.2500000000000002),
    *(1.3000000000000003, 1.3500000000000003, 1.5000000000000004),
    *(2.000000000000001,) * 21,
    *(2.0500000000000007, 2.0500000000000007, 2.0500000000000007, 2.1000000000000005, 2.1000000000000005),
    *(2.1000000000000005, 2.1500000000000004, 2.1500000000000004, 2.3499999999999996, 2.549999999999999),
    *(2.5999999999999988, 2.5999999999999988, 2.7499999999999982, 2.849999999999998, 2.849999999999998),
    *(2.9499999999999975,),
)

_LONG_FACTOR = (
    *(1.0299999713897705, 1.0499999523162842, 1.0499999523162842, 1.0799999237060547),
    *(1.2299998998641968, 1.2299998998641968, 1.2999999523162842, 1.4499999284744263),
    *(1.5999999046325684, 1.6499998569488525, 1.8999998569488525, 2.859999895095825),
    *(3.68999981880188, 5.419999599456787, 5.489999771118164, 5.489999771118164),
    *(9.09000015258789, 11.579999923706055, 15.65999984741211, 15.769999504089355),
    *(15.789999961853027, 18.360000610351562, 21.989999771118164, 23.079999923706055),
    *(30.009998321533203, 32.35000228881836, 32.590003967285156, 35.56000518798828),
    *(39.95000457763672, 53.840003967285156, 56.20000457763672, 57.95000457763672),
    *(59.29000473022461, 59.77000427246094, 59.920005798339844, 61.190006256103516),
    *(61.96000671386719, 62.50000762939453, 63.3700065612793, 63.48000717163086),
    *(63.48000717163086, 63.66000747680664, 63.850006103515625, 64.08000946044922),
    *(64.760009765625, 64.80001068115234, 64.81001281738281, 64.81001281738281),
)

_VISION_300M = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-06,
    "hidden_act": "gelu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "drop_path_rate": 0.0,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
}

_VISION_6B = _VISION_300M | {
    "hidden_size": 3200,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
    "initializer_factor": 0.1,
}

_LLM = {"hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rope_scaling": None}

_PHI3 = _LLM | {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "su", "short_factor": list(_SHORT_FACTOR), "long_factor": list(_LONG_FACTOR)},
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}

_INTERNLM2 = _LLM | {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "max_position_embeddings": 32768,
    "bias": False,
    "vocab_size": 92553,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

_QWEN2 = _LLM | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}

_LLAMA = _LLM | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-05,
    "attention_bias": False,
}


def _llm(
    base: Mapping[str, Any], width: int, layers: int, heads: tuple[int, int], inner: int
) -> dict[str, Any]:
    return {
        **base,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "intermediate_size": inner,
    }


_YI = _LLAMA | {
    "vocab_size": 64007,
    "rope_theta": 5000000.0,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 7,
}
_LLAMA3 = _LLAMA | {
    "vocab_size": 128265,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "bos_token_id": 128000,
    "eos_token_id": 128003,
}

# size -> (vision tower, template, language model)
_SERIES: Mapping[str, tuple[Mapping[str, Any], str, Mapping[str, Any]]] = {
    "InternVL2-1B": (
        _VISION_300M,
        "Hermes-2",
        _llm(_QWEN2 | {"vocab_size": 151655}, 896, 24, (14, 2), 4864),
    ),
    "InternVL2-2B": (_VISION_300M, "internlm2-chat", _llm(_INTERNLM2, 2048, 24, (16, 8), 8192)),
    "InternVL2-4B": (
        _VISION_300M,
        "phi3-chat",
        _llm(_PHI3 | {"vocab_size": 32020}, 3072, 32, (32, 32), 8192),
    ),
    "InternVL2-8B": (_VISION_300M, "internlm2-chat", _llm(_INTERNLM2, 4096, 32, (32, 8), 14336)),
    "InternVL2-26B": (_VISION_6B, "internlm2-chat", _llm(_INTERNLM2, 6144, 48, (48, 8), 16384)),
    "InternVL2-40B": (_VISION_6B, "Hermes-2", _llm(_YI, 7168, 60, (56, 8), 20480)),
    "InternVL2-76B": (_VISION_6B, "internlm2-chat", _llm(_LLAMA3, 8192, 80, (64, 8), 28672)),
}

SERIES = tuple(_SERIES)


def series_config(name: str) -> dict[str, Any]:
    """The config.json of `name`, for example InternVL2-4B, as parsed JSON.

    Raises:
        ConfigError: no such size.
    """
    if name not in _SERIES:
        raise ConfigError(f"unknown model {name!r}; known: {', '.join(SERIES)}")
    vision, template, llm = _SERIES[name]
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": template,
        "select_layer": -1,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "force_image_size": 448,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "pad2square": False,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": deepcopy(vision),
        "llm_config": deepcopy(llm),
    }
