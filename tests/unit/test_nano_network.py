"""The training network of nano: packing, export and reading back change no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.recipe import runtime

runtime.apply()

import paddle

from internvl.checkpoint.reader import open_checkpoint
from internvl.model_config import read_model_config
from models.recipe.batches import build_batch
from models.recipe.evaluate import training_parameters
from models.recipe.export import write_checkpoint
from models.recipe.network import Network
from models.recipe.scene_parts import FULL
from models.recipe.seeds import TRAINING, stream
from models.recipe.sizes import Shape, initial_parameters
from models.recipe.tasks import batch_of_scenes
from models.recipe.tokens import Tokenizer, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    build_tokenizer(path)
    return Tokenizer(path)


def _network(values: dict[str, np.ndarray], vocabulary: int) -> Network:
    return Network(
        Shape(vocabulary), {k: paddle.to_tensor(np.ascontiguousarray(v)) for k, v in values.items()}
    )


def _logits(network: Network, tokenizer: Tokenizer, items: list) -> np.ndarray:  # type: ignore[type-arg]
    batch = build_batch(tokenizer, items, with_labels=False)
    with paddle.no_grad():
        hidden, _ = network.hidden(batch, network.visual_tokens(batch.patches))
        return np.asarray(network.answer_logits(batch, hidden).numpy())


def test_branches_of_a_row_do_not_see_each_other(tokenizer: Tokenizer) -> None:
    network = _network(initial_parameters(Shape(tokenizer.size), 1), tokenizer.size)
    scene = batch_of_scenes(stream(TRAINING, 1), "several", FULL, 0.0)[0]
    together = _logits(network, tokenizer, [(scene, list(scene.dialogues))])
    alone = np.concatenate([_logits(network, tokenizer, [(scene, [d])]) for d in scene.dialogues])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_export_and_reading_back_keep_the_function(tokenizer: Tokenizer, tmp_path: Path) -> None:
    values = initial_parameters(Shape(tokenizer.size), 2)
    write_checkpoint(values, tmp_path)
    config = read_model_config(tmp_path)
    stored = {n: np.asarray(a, np.float32) for n, a in open_checkpoint(tmp_path, config).tensors()}
    back = training_parameters(stored, config)
    for name, value in back.items():
        scale = np.abs(values[name]).max() + 0.1
        np.testing.assert_allclose(value, values[name], atol=0.02 * scale, err_msg=name)
    assert {n for n in values if not n.startswith(("label", "number", "cell"))} == set(back)
