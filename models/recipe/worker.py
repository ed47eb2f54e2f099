"""One training process: draws batches, runs them forward and backward, updates its part of the parameters."""

from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from internvl.atomic_file import atomic_write
from models.recipe.batches import build_batch
from models.recipe.network import Network
from models.recipe.optimizer import Floats, Layout, Optimizer, SharedState
from models.recipe.schedule import Phase
from models.recipe.seeds import TRAINING, stream
from models.recipe.sizes import Shape, is_vision, parameter_shapes
from models.recipe.tasks import batch_of_scenes
from models.recipe.tokens import Tokenizer

DIALOGUES = 5
VISION_RATE = 0.6
NUMBER_WEIGHT = 0.3
NUMBERED = ("images", "counts", "slides", "motion")


class Worker:
    """One training process: draws its own batches and updates its part of the shared parameters."""

    def __init__(
        self, rank: int, processes: int, memory: str, barrier: Barrier, seed: int, work: Path
    ) -> None:
        self.rank, self.seed, self.work = rank, seed, work
        self.tokenizer = Tokenizer(work / "tokenizer.model")
        shape = Shape(vocabulary=self.tokenizer.size)
        self.layout = Layout(parameter_shapes(shape))
        self.state = SharedState(self.layout.size, processes, memory)
        self.optimizer = Optimizer(self.state, self.layout, rank, processes, barrier)
        self.parameters: dict[str, Any] = {}
        for name, view in self.layout.views(self.state.parameters).items():
            tensor = paddle.from_dlpack(view)
            tensor.stop_gradient = False
            self.parameters[name] = tensor
        self.network = Network(shape, self.parameters)
        self.vision_names = {n for n in self.layout.shapes if is_vision(n)}

    def _collect(self, needed: set[str]) -> None:
        for name, tensor in self.parameters.items():
            target = self.optimizer.gradients[name]
            if tensor.grad is None:
                if name in needed:
                    raise RuntimeError(f"no gradient for {name}")
                target[...] = 0
            else:
                target[...] = np.from_dlpack(tensor.grad.detach())
                tensor.clear_gradient(False)

    def backward(self, phase: Phase, step: int) -> dict[str, float]:
        """Draw a batch, run it forward and backward, leave the gradients in shared memory."""
        rng = stream(TRAINING, self.seed, self.rank, step)
        names = list(phase.mix)
        weights = np.array([phase.mix[n] for n in names])
        task = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        labels_only = phase.labels_only or task == "sheet"
        asked = 0 if labels_only else DIALOGUES
        items = []
        for scene in batch_of_scenes(rng, task, phase.level, phase.scale):
            chosen = rng.permutation(len(scene.dialogues))[:asked]
            items.append((scene, [scene.dialogues[i] for i in chosen]))
        batch = build_batch(self.tokenizer, items, with_labels=True)
        report: dict[str, float] = {}
        seeing = batch.patches.shape[0] > 0
        visual = self.network.visual_tokens(batch.patches) if seeing else None
        loss: Any = 0.0
        if seeing:
            label = self.network.label_loss(visual, batch.labels)
            report["label"] = float(label)
            loss = label if labels_only else label * phase.label_weight
        needed = set(self.vision_names) if seeing else set()
        if not labels_only:
            hidden, early = self.network.hidden(batch, visual)
            answer = F.cross_entropy(
                self.network.answer_logits(batch, hidden), paddle.to_tensor(batch.targets)
            )
            report[task] = float(answer)
            loss = loss + answer
            if task in NUMBERED:
                number = self.network.number_loss(batch, early)
                report["number"] = float(number)
                loss = loss + NUMBER_WEIGHT * number
            needed |= {n for n in self.layout.shapes if n.startswith(("decoder", "embed", "head"))}
        loss.backward()
        self._collect(needed)
        return report

    def rates(self, phase: Phase) -> Floats:
        """Per-value learning rates of a phase relative to its own rate."""
        vision = 1.0 if phase.labels_only else VISION_RATE
        other = 0.0 if phase.labels_only else 1.0
        return self.optimizer.rates(
            {n: vision if n in self.vision_names else other for n in self.layout.shapes}
        )

    def save(self, step: int) -> None:
        """Write the checkpoint."""
        state = self.state
        with atomic_write(self.work / "checkpoint.npz") as file:
            np.savez(file, step=step, parameters=state.parameters, first=state.first, second=state.second)
