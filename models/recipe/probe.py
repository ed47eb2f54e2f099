"""Accuracy on held-out scenes during training: exact match of every dialogue, teacher-forced.

A dialogue is right when each of its answer tokens is the arg-max given the ones before it, which is the
same as greedy decoding giving exactly that answer.
"""

from collections import defaultdict

import numpy as np
import paddle

from models.recipe.batches import build_batch
from models.recipe.network import Network
from models.recipe.scene_parts import Difficulty
from models.recipe.seeds import HELD_OUT, stream
from models.recipe.tasks import TASKS, batch_of_scenes
from models.recipe.tokens import Tokenizer

Tally = dict[str, tuple[int, int]]


def measure(
    network: Network, tokenizer: Tokenizer, level: Difficulty, keys: tuple[int, ...], rounds: int
) -> Tally:
    """(right, asked) per "task/skill" over `rounds` batches of every task."""
    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    with paddle.no_grad():
        for number, task in enumerate(TASKS):
            for turn in range(rounds):
                scenes = batch_of_scenes(stream(HELD_OUT, number, turn, *keys), task, level)
                batch = build_batch(tokenizer, [(s, list(s.dialogues)) for s in scenes], with_labels=False)
                visual = network.visual_tokens(batch.patches) if batch.patches.shape[0] else None
                hidden, _ = network.hidden(batch, visual)
                guess = network.answer_logits(batch, hidden).argmax(axis=-1).numpy()
                exact = np.ones(len(batch.skills), bool)
                np.logical_and.at(exact, batch.owner, guess == batch.targets)
                for skill, good in zip(batch.skills, exact, strict=True):
                    right[f"{task}/{skill}"] += int(good)
                    asked[f"{task}/{skill}"] += 1
    return {name: (right[name], asked[name]) for name in asked}
