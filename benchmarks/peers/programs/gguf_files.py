"""From a checkpoint to llama.cpp: `python -m benchmarks.peers.programs.gguf_files CHECKPOINT FOLDER`.

The decoder alone, without a tokenizer: it is asked with token ids. Runs in the environment of llama.cpp.
"""

from __future__ import annotations

import sys
from ctypes import byref
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

from internvl.atomic_file import atomic_write
from internvl.checkpoint import Part, TensorSpec, open_checkpoint, progress_bar
from internvl.model_config import LlmConfig, load_raw_config, read_model_config

_QUANTISED = {
    "q8_0.gguf": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m.gguf": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}

_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.qkv_proj.weight": "attn_qkv.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
_LAYERS = f"{Part.DECODER.value}model.layers."


def main(source: Path, folder: Path) -> None:
    """Write `bf16.gguf`, and from it the others, where they are not there yet."""
    plain = folder / "bf16.gguf"
    if not plain.exists():
        with atomic_write(plain) as file:
            _write(source, Path(file.name))
    for name, kind in _QUANTISED.items():
        target = folder / name
        if not target.exists():
            with atomic_write(target) as file:
                _quantise(plain, Path(file.name), kind)


def _quantise(source: Path, target: Path, kind: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = kind
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), byref(params)):
        raise RuntimeError(f"llama.cpp did not make {target.stem}")


def _write(source: Path, target: Path) -> None:
    config = read_model_config(source)
    checkpoint = open_checkpoint(source, config)
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.PHI3])
    factors = _describe(writer, config.llm, load_raw_config(source / "config.json")["llm_config"])
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for spec in checkpoint.specs(Part.DECODER.value):
        _announce(writer, spec)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in factors.values():
        writer.write_tensor_data(values)
    with progress_bar("bf16.gguf") as progress:
        for _, array in checkpoint.tensors(Part.DECODER.value, progress):
            writer.write_tensor_data(_stored(array))
    writer.close()


def _describe(
    writer: gguf.GGUFWriter, config: LlmConfig, raw: dict[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """What a file says about the model beside its weights, and the factors of its long contexts."""
    width = config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_rope_scaling_orig_ctx_len(raw["original_max_position_embeddings"])
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(raw["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(raw["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("none")
    scaling = raw["rope_scaling"]
    return {
        "rope_factors_long.weight": np.array(scaling["long_factor"], np.float32),
        "rope_factors_short.weight": np.array(scaling["short_factor"], np.float32),
    }


def _announce(writer: gguf.GGUFWriter, spec: TensorSpec) -> None:
    if len(spec.shape) == 1:
        writer.add_tensor_info(_name(spec.name), spec.shape, np.dtype(np.float32), 4 * spec.parameters)
        return
    rows, columns = spec.shape
    in_bytes = (rows, 2 * columns)
    kind = gguf.GGMLQuantizationType.BF16
    writer.add_tensor_info(_name(spec.name), in_bytes, np.dtype(np.uint8), 2 * spec.parameters, kind)


def _name(ours: str) -> str:
    if not ours.startswith(_LAYERS):
        return _TENSORS[ours.removeprefix(Part.DECODER.value)]
    number, _, rest = ours.removeprefix(_LAYERS).partition(".")
    return f"blk.{number}.{_TENSORS[rest]}"


def _stored(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.ndim == 1 else np.ascontiguousarray(array).view(np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
