"""Write a trained state as a released checkpoint: `python -m models.recipe.export`.

Training uses norms without weights and no layer scale. Here each gets a seeded weight that the neighbouring
linear layer undoes, so the exported function is the same but a server that forgets one of them answers
wrong.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint.tensor_specs import expected_tensors
from internvl.checkpoint.writer import WriteOptions, write_weights
from internvl.model_config import parse_model_config
from models.recipe.geometry import MAX_TILES, PATCH, TILE
from models.recipe.optimizer import Layout
from models.recipe.sizes import LONG_FACTORS, SHORT_FACTORS, Shape, parameter_shapes
from models.recipe.tokens import Tokenizer, build_tokenizer, tokenizer_files

MODELS = Path(__file__).resolve().parents[1]
Floats = NDArray[np.float32]


def model_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` with every key of the released 4B file."""
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": TILE,
        "llm_config": _llm_config(shape, tokenizer.added["<|endoftext|>"]),
        "max_dynamic_patch": MAX_TILES,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "phi3-chat",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.37.2",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": _vision_config(shape),
    }


def _vision_config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": shape.vision_width,
        "image_size": TILE,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": shape.vision_mlp,
        "layer_norm_eps": shape.vision_eps,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": shape.vision_width // shape.head,
        "num_channels": 3,
        "num_hidden_layers": shape.vision_layers,
        "patch_size": PATCH,
        "qk_normalization": False,
        "qkv_bias": True,
        "torch_dtype": "bfloat16",
        "use_bfloat16": True,
        "use_flash_attn": True,
    }


def _llm_config(shape: Shape, end: int) -> dict[str, Any]:
    """`end` is the id of the token behind a text."""
    heads = shape.width // shape.head
    return {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_implementation": "flash_attention_2",
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": end,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.mlp,
        "max_position_embeddings": shape.max_positions,
        "model_type": "phi3",
        "num_attention_heads": heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": heads,
        "original_max_position_embeddings": shape.trained_positions,
        "pad_token_id": end,
        "resid_pdrop": 0.0,
        "rms_norm_eps": shape.eps,
        "rope_scaling": {
            "long_factor": list(LONG_FACTORS),
            "short_factor": list(SHORT_FACTORS),
            "type": "su",
        },
        "rope_theta": shape.theta,
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


class Exporter:
    """Turns trained values into released tensors, [out, in] and with norm weights."""

    def __init__(self, values: dict[str, Floats], shape: Shape) -> None:
        self._values, self._shape = values, shape
        self._rng = np.random.default_rng(0)
        self.tensors: dict[str, Floats] = {}

    def _scale(self, width: int) -> Floats:
        return np.asarray(self._rng.uniform(0.8, 1.25, width), np.float32)

    def _normed_linear(self, norm: str, linear: str, source: str, bias: bool) -> None:
        """A norm with weight (and bias) followed by the linear layer that undoes them."""
        weight = self._values[f"{source}.weight"]
        gain = self._scale(weight.shape[0])
        self.tensors[f"{norm}.weight"] = gain
        self.tensors[f"{linear}.weight"] = (weight / gain[:, None]).T
        if bias:
            shift = np.asarray(self._rng.normal(0, 0.05, weight.shape[0]), np.float32)
            self.tensors[f"{norm}.bias"] = shift
            undone = np.asarray((shift / gain) @ weight, np.float32)
            self.tensors[f"{linear}.bias"] = self._values[f"{source}.bias"] - undone

    def _scaled_linear(self, scale: str, linear: str, source: str) -> None:
        """A linear layer and the layer scale behind it."""
        weight = self._values[f"{source}.weight"]
        gain = self._scale(weight.shape[1])
        self.tensors[scale] = gain
        self.tensors[f"{linear}.weight"] = (weight / gain).T
        self.tensors[f"{linear}.bias"] = self._values[f"{source}.bias"] / gain

    def _vision(self) -> None:
        v, c = self._values, self._shape.vision_width
        root = "vision_model.embeddings"
        position = v["vision.position"].copy()
        bias = position[0, 1:].mean(axis=0)
        position[0, 1:] -= bias
        self.tensors[f"{root}.class_embedding"] = v["vision.cls"]
        self.tensors[f"{root}.patch_embedding.weight"] = v["vision.patch.weight"].T.reshape(
            c, 3, PATCH, PATCH
        )
        self.tensors[f"{root}.patch_embedding.bias"] = bias
        self.tensors[f"{root}.position_embedding"] = position
        for i in range(self._shape.vision_layers):
            layer, source = f"vision_model.encoder.layers.{i}", f"vision.{i}"
            self._normed_linear(f"{layer}.norm1", f"{layer}.attn.qkv", f"{source}.qkv", bias=True)
            self._scaled_linear(f"{layer}.ls1", f"{layer}.attn.proj", f"{source}.proj")
            self._normed_linear(f"{layer}.norm2", f"{layer}.mlp.fc1", f"{source}.fc1", bias=True)
            self._scaled_linear(f"{layer}.ls2", f"{layer}.mlp.fc2", f"{source}.fc2")

    def _decoder(self) -> None:
        v = self._values
        root = "language_model.model"
        self.tensors[f"{root}.embed_tokens.weight"] = v["embed"]
        for i in range(self._shape.layers):
            layer, source = f"{root}.layers.{i}", f"decoder.{i}"
            self._normed_linear(
                f"{layer}.input_layernorm", f"{layer}.self_attn.qkv_proj", f"{source}.qkv", bias=False
            )
            self.tensors[f"{layer}.self_attn.o_proj.weight"] = v[f"{source}.o.weight"].T
            norm = f"{layer}.post_attention_layernorm"
            self._normed_linear(norm, f"{layer}.mlp.gate_up_proj", f"{source}.gate_up", bias=False)
            self.tensors[f"{layer}.mlp.down_proj.weight"] = v[f"{source}.down.weight"].T
        self._normed_linear(f"{root}.norm", "language_model.lm_head", "head", bias=False)

    def run(self) -> dict[str, Floats]:
        """All tensors of the checkpoint by their released names."""
        self._vision()
        self._normed_linear("mlp1.0", "mlp1.1", "mlp1.1", bias=True)
        self.tensors["mlp1.3.weight"] = self._values["mlp1.3.weight"].T
        self.tensors["mlp1.3.bias"] = self._values["mlp1.3.bias"]
        self._decoder()
        return self.tensors


def write_checkpoint(values: dict[str, Floats], out: Path) -> None:
    """Write config, tokenizer files and bfloat16 weights into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    build_tokenizer(out / "tokenizer.model")
    tokenizer = Tokenizer(out / "tokenizer.model")
    shape = Shape(vocabulary=tokenizer.size)
    raw = model_config(shape, tokenizer)
    added = tokenizer.added
    generation = {
        "_from_model_config": True,
        "bos_token_id": 1,
        "eos_token_id": [added["<|end|>"], added["<|assistant|>"], added["<|endoftext|>"]],
        "pad_token_id": added["<|endoftext|>"],
        "transformers_version": "4.37.2",
    }
    for name, content in (("config.json", raw), ("generation_config.json", generation)):
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, text in tokenizer_files(tokenizer.size).items():
        (out / name).write_text(text, encoding="utf-8")
    tensors = Exporter(values, shape).run()
    specs = [(spec, "bfloat16") for spec in expected_tensors(parse_model_config(raw)).values()]
    write_weights(out, specs, ((spec.name, tensors[spec.name]) for spec, _ in specs), WriteOptions())


def main() -> None:
    """Export the last checkpoint of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=MODELS / ".work", help="folder of the run (default models/.work)"
    )
    parser.add_argument(
        "--out", type=Path, default=MODELS / "nano", help="checkpoint folder (default models/nano)"
    )
    args = parser.parse_args()
    shape = Shape(vocabulary=Tokenizer(args.work / "tokenizer.model").size)
    with np.load(args.work / "checkpoint.npz") as saved:
        write_checkpoint(Layout(parameter_shapes(shape)).views(saved["parameters"]), args.out)
        print(f"step {int(saved['step'])} written to {args.out}")


if __name__ == "__main__":
    main()
