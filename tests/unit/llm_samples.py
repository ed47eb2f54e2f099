"""A tiny random model with a real tokenizer, in the released layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as model_pb2

from internvl.checkpoint import series_config, write_random_checkpoint
from tests.unit.tokenizer_samples import ADDED_TOKENS, trained_model, write_tokenizer

HIDDEN = 32
TOKENS_PER_TILE = 4
POSITIONS = 512
ROPE_LIMIT = 160  # original_max_position_embeddings: a short request can cross it


def tiny_config(vocab_size: int, **llm: Any) -> dict[str, Any]:
    """config.json of a model of the 4B architecture, small enough for a test."""
    config = series_config("InternVL2-4B")
    config["vision_config"] |= {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 56,
    }
    config["force_image_size"] = 56
    config["llm_config"] |= {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS,
        "original_max_position_embeddings": ROPE_LIMIT,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1, 2, 4, 8]},
        **llm,
    }
    return config


def write_tiny_model(
    folder: Path, seed: int = 0, *, vision: dict[str, Any] | None = None, **llm: Any
) -> Path:
    """A whole checkpoint folder: config, random float32 weights, tokenizer."""
    model = trained_model()
    vocab_size = len(model_pb2.ModelProto.FromString(model).pieces) + len(ADDED_TOKENS)
    config = tiny_config(vocab_size, **llm)
    config["vision_config"] |= vision or {}
    write_random_checkpoint(folder, config, seed=seed, dtype="float32")
    return write_tokenizer(folder, model)
