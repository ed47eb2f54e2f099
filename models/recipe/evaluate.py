"""Held-out exact match of an exported checkpoint: `python -m models.recipe.evaluate`.

Reads the bfloat16 file back, decodes the files of `heldout` and scores the last answer of each case. An
answer is right when each of its tokens, `<|end|>` included, is the arg-max given the ones before, which is
the same as greedy decoding giving exactly that answer.
"""

import argparse
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.recipe import runtime

runtime.apply()

import numpy as np
import paddle
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from internvl.checkpoint.reader import open_checkpoint
from internvl.model_config import InternVLConfig, read_model_config
from models.recipe.batches import build_batch
from models.recipe.drawing import Mark, Picture
from models.recipe.heldout import SKILLS, Case, make_case
from models.recipe.network import Network
from models.recipe.scene_parts import Dialogue, Scene
from models.recipe.sizes import Shape
from models.recipe.tokens import Tokenizer
from models.recipe.video import decode_video

Floats = NDArray[np.float32]
BATCH = 12
NANO = Path(__file__).resolve().parents[1] / "nano"


def _undo_norm(t: dict[str, Floats], norm: str, linear: str) -> dict[str, Floats]:
    weight = t[f"{linear}.weight"].T
    out = {"weight": weight * t[f"{norm}.weight"][:, None]}
    if f"{norm}.bias" in t:
        out["bias"] = t[f"{linear}.bias"] + t[f"{norm}.bias"] @ weight
    return out


def _undo_scale(t: dict[str, Floats], scale: str, linear: str) -> dict[str, Floats]:
    return {"weight": t[f"{linear}.weight"].T * t[scale], "bias": t[f"{linear}.bias"] * t[scale]}


def training_parameters(t: dict[str, Floats], config: InternVLConfig) -> dict[str, Floats]:
    """Released tensors as the training network's parameters: norm weights and layer scale folded into
    linears."""
    root = "vision_model.embeddings"
    position = t[f"{root}.position_embedding"].copy()
    position[0, 1:] += t[f"{root}.patch_embedding.bias"]
    patch = t[f"{root}.patch_embedding.weight"]
    values = {
        "vision.cls": t[f"{root}.class_embedding"],
        "vision.patch.weight": patch.reshape(patch.shape[0], -1).T,
        "vision.position": position,
        "mlp1.3.weight": t["mlp1.3.weight"].T,
        "mlp1.3.bias": t["mlp1.3.bias"],
        "embed": t["language_model.model.embed_tokens.weight"],
    }
    folded = {"mlp1.1": _undo_norm(t, "mlp1.0", "mlp1.1")}
    for i in range(config.vision.num_hidden_layers):
        layer = f"vision_model.encoder.layers.{i}"
        folded[f"vision.{i}.qkv"] = _undo_norm(t, f"{layer}.norm1", f"{layer}.attn.qkv")
        folded[f"vision.{i}.proj"] = _undo_scale(t, f"{layer}.ls1", f"{layer}.attn.proj")
        folded[f"vision.{i}.fc1"] = _undo_norm(t, f"{layer}.norm2", f"{layer}.mlp.fc1")
        folded[f"vision.{i}.fc2"] = _undo_scale(t, f"{layer}.ls2", f"{layer}.mlp.fc2")
    root = "language_model.model"
    for i in range(config.llm.num_hidden_layers):
        layer = f"{root}.layers.{i}"
        folded[f"decoder.{i}.qkv"] = _undo_norm(t, f"{layer}.input_layernorm", f"{layer}.self_attn.qkv_proj")
        folded[f"decoder.{i}.gate_up"] = _undo_norm(
            t, f"{layer}.post_attention_layernorm", f"{layer}.mlp.gate_up_proj"
        )
        values[f"decoder.{i}.o.weight"] = t[f"{layer}.self_attn.o_proj.weight"].T
        values[f"decoder.{i}.down.weight"] = t[f"{layer}.mlp.down_proj.weight"].T
    folded["head"] = _undo_norm(t, f"{root}.norm", "language_model.lm_head")
    for name, parts in folded.items():
        values |= {f"{name}.{part}": value for part, value in parts.items()}
    return values


class Evaluator:
    """An exported checkpoint, ready to be asked."""

    def __init__(self, folder: Path) -> None:
        config = read_model_config(folder)
        tensors = {n: np.asarray(a, np.float32) for n, a in open_checkpoint(folder, config).tensors()}
        values = training_parameters(tensors, config)
        self.tokenizer = Tokenizer(folder / "tokenizer.model")
        self._network = Network(
            Shape(vocabulary=self.tokenizer.size),
            {name: paddle.to_tensor(np.ascontiguousarray(value)) for name, value in values.items()},
        )

    def exact(self, cases: list[Case], max_tiles: int | None = None) -> list[bool]:
        """Whether the last answer of each case comes out exactly; `max_tiles` overrides the tile limit."""
        items = [(_scene(case, max_tiles), [Dialogue(case.skill, case.turns)]) for case in cases]
        batch = build_batch(self.tokenizer, items, with_labels=False)
        with paddle.no_grad():
            visual = self._network.visual_tokens(batch.patches) if batch.patches.shape[0] else None
            hidden, _ = self._network.hidden(batch, visual)
            guess = self._network.answer_logits(batch, hidden).argmax(axis=-1).numpy()
        right = guess == batch.targets
        lengths = [len(self.tokenizer.answer(case.expected)) for case in cases]
        return [bool(right[batch.owner == i][-n:].all()) for i, n in enumerate(lengths)]


def _scene(case: Case, max_tiles: int | None) -> Scene:
    kind, images = "image" if len(case.media) == 1 else "images", []
    for media in case.media:
        if media.kind == "video":
            kind = "video"
            images += decode_video(media.data, media.frames)
        else:
            image = Image.open(io.BytesIO(media.data)).convert("RGB")
            images.append(image.resize((112, 112)) if max_tiles == 1 else image)
    pictures = tuple(Picture(image, np.zeros((1, 1), np.uint8), (Mark(),)) for image in images)
    return Scene(kind if images else "text", pictures, ())


def _batches(cases: Iterable[Case]) -> Iterable[list[Case]]:
    group: list[Case] = []
    for case in cases:
        group.append(case)
        if len(group) == BATCH:
            yield group
            group = []
    if group:
        yield group


def measure(evaluator: Evaluator, per_skill: int, max_tiles: int | None = None) -> dict[str, Any]:
    """Exact match per skill and over all."""
    rows = {}
    for skill in tqdm(SKILLS, unit="skill"):
        cases = (make_case(skill, number) for number in range(per_skill))
        right = [good for group in _batches(cases) for good in evaluator.exact(group, max_tiles)]
        rows[skill] = round(sum(right) / len(right), 4)
    overall = round(sum(rows.values()) / len(rows), 4)
    return {"exact_match_overall": overall, "exact_match_min_skill": min(rows.values()), "skills": rows}


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=NANO, help="checkpoint folder (default models/nano)")
    parser.add_argument("--per-skill", type=int, default=200, help="cases per skill (default 200)")
    parser.add_argument(
        "--max-tiles", type=int, choices=[1], help="1 shows the model the whole image only, no tiles"
    )
    args = parser.parse_args()
    print(json.dumps(measure(Evaluator(args.model), args.per_skill, args.max_tiles), indent=1))


if __name__ == "__main__":
    main()
