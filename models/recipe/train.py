"""Train nano: `python -m models.recipe.train`. Seeded; run it again to resume from the last checkpoint."""

import argparse
import json
import math
import multiprocessing
import time
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from models.recipe import runtime

runtime.apply()

import numpy as np
from tqdm import tqdm

from models.recipe.optimizer import Layout, Optimizer, SharedState
from models.recipe.schedule import PHASES, Phase
from models.recipe.seeds import TRAINING, stream
from models.recipe.sizes import Shape, initial_parameters, is_vision, parameter_shapes
from models.recipe.tokens import Tokenizer, build_tokenizer

PROCESSES = 2
CHECKPOINT_SECONDS = 180
PROBE_SECONDS = 300
DIALOGUES = 5
VISION_RATE = 0.6
MODELS = Path(__file__).resolve().parents[1]


def rate_factor(phase: Phase, step: int) -> float:
    """Learning rate at `step` of `phase`: linear warm-up, then a cosine from start to end."""
    done = step / max(1, phase.steps)
    rate = phase.end_rate + (phase.start_rate - phase.end_rate) * 0.5 * (1 + math.cos(math.pi * done))
    return rate * min(1.0, (step + 1) / phase.warm_up) if phase.warm_up else rate


class Worker:
    """One training process: draws its own batches and updates its part of the shared parameters."""

    def __init__(self, rank: int, memory: str, barrier: Barrier, seed: int, work: Path) -> None:
        import paddle

        from models.recipe.network import Network

        self.rank, self.seed, self.work = rank, seed, work
        self.tokenizer = Tokenizer(work / "tokenizer.model")
        shape = Shape(vocabulary=self.tokenizer.size)
        self.layout = Layout(parameter_shapes(shape))
        self.state = SharedState(self.layout.size, PROCESSES, memory)
        self.optimizer = Optimizer(self.state, self.layout, rank, PROCESSES, barrier)
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
        from models.recipe.batches import build_batch
        from models.recipe.scenes import batch_of_scenes

        import paddle.nn.functional as F

        rng = stream(TRAINING, self.seed, self.rank, step)
        names = list(phase.mix)
        weights = np.array([phase.mix[n] for n in names])
        task = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        scenes = batch_of_scenes(rng, task, phase.level, 2.0 if phase.labels_only or task == "sheet" else 1.0)
        items = []
        for scene in scenes:
            chosen = rng.permutation(len(scene.dialogues))[: 0 if phase.labels_only or task == "sheet" else DIALOGUES]
            items.append((scene, [scene.dialogues[i] for i in chosen]))
        batch = build_batch(self.tokenizer, items, with_labels=True)
        report: dict[str, float] = {}
        seeing = batch.patches.shape[0] > 0
        visual = self.network.visual_tokens(batch.patches) if seeing else None
        loss: Any = 0.0
        if seeing:
            label = self.network.label_loss(visual, batch.labels)
            report["label"] = float(label)
            loss = label if phase.labels_only or task == "sheet" else label * phase.label_weight
        needed = set(self.vision_names) if seeing else set()
        if not phase.labels_only and task != "sheet":
            hidden, middle = self.network.hidden(batch, visual)
            answer = F.cross_entropy(self.network.answer_logits(batch, hidden), _int64(batch.targets))
            report[task] = float(answer)
            loss = loss + answer
            if task in ("images", "counts", "slides", "motion"):
                loss = loss + 0.1 * self.network.number_loss(batch, middle)
            needed |= {n for n in self.layout.shapes if n.startswith(("decoder", "embed", "head"))}
        loss.backward()
        self._collect(needed)
        return report

    def rates(self, phase: Phase) -> Any:
        """Per-value learning rates of a phase relative to its own rate."""
        vision = 1.0 if phase.labels_only else VISION_RATE
        other = 0.0 if phase.labels_only else 1.0
        return self.optimizer.rates({n: vision if n in self.vision_names else other for n in self.layout.shapes})

    def save(self, step: int) -> None:
        """Write the checkpoint atomically."""
        temporary = self.work / "checkpoint.tmp.npz"
        state = self.state
        np.savez(temporary, step=step, parameters=state.parameters, first=state.first, second=state.second)
        temporary.replace(self.work / "checkpoint.npz")


def _int64(values: Any) -> Any:
    import paddle

    return paddle.to_tensor(values)


def _locate(step: int) -> tuple[Phase, int]:
    for phase in PHASES:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError(step)


def run_worker(rank: int, memory: str, barrier: Barrier, seed: int, work: Path, start: int) -> None:
    """Body of one process; rank 0 reports, probes and saves."""
    worker = Worker(rank, memory, barrier, seed, work)
    total = sum(p.steps for p in PHASES)
    bar = tqdm(total=total, initial=start, disable=rank != 0, unit="step", smoothing=0.02, mininterval=10)
    averages: dict[str, float] = {}
    phase_name, rates = "", None
    last_save = last_probe = time.monotonic()
    for step in range(start, total):
        phase, within = _locate(step)
        if phase.name != phase_name:
            phase_name, rates = phase.name, worker.rates(phase)
            bar.set_description(phase.name)
        report = worker.backward(phase, within_stream(step))
        norm = worker.optimizer.step(rates, rate_factor(phase, within), step + 1)
        if rank:
            continue
        for name, value in report.items():
            averages[name] = value if name not in averages else 0.95 * averages[name] + 0.05 * value
        bar.set_postfix_str(" ".join(f"{k}={v:.2f}" for k, v in averages.items()) + f" |g|={norm:.1f}", refresh=False)
        bar.update()
        now = time.monotonic()
        if now - last_save > CHECKPOINT_SECONDS or step + 1 == total:
            worker.save(step + 1)
            last_save = now
        if now - last_probe > PROBE_SECONDS and not phase.labels_only or step + 1 == total:
            last_probe = time.monotonic()
            probe(worker, phase, step + 1)
    bar.close()


def within_stream(step: int) -> int:
    """The key of the random stream of a step."""
    return step


def probe(worker: Worker, phase: Phase, step: int) -> None:
    """Print held-out accuracy and append it to `probes.jsonl`."""
    from models.recipe.probe import measure

    tally = measure(worker.network, worker.tokenizer, phase.level, (7,), rounds=2)
    rows = {name: round(right / asked, 3) for name, (right, asked) in tally.items()}
    overall = sum(r for r, _ in tally.values()) / sum(a for _, a in tally.values())
    tqdm.write(f"step {step} held-out {overall:.3f}  " + "  ".join(f"{k} {v:.2f}" for k, v in rows.items()))
    with (worker.work / "probes.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "overall": overall, "time": time.time(), "rows": rows}) + "\n")


def main() -> None:
    """Start the processes, resume when a checkpoint is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=MODELS / ".work", help="checkpoints and probes (default models/.work)")
    parser.add_argument("--seed", type=int, default=1, help="seed of drawings and start values (default 1)")
    args = parser.parse_args()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    build_tokenizer(work / "tokenizer.model")
    (work / "schedule.json").write_text(json.dumps([asdict(p) for p in PHASES], indent=1))
    shape = Shape(vocabulary=Tokenizer(work / "tokenizer.model").size)
    layout = Layout(parameter_shapes(shape))
    state = SharedState(layout.size, PROCESSES)
    start = 0
    if (work / "checkpoint.npz").exists():
        saved = np.load(work / "checkpoint.npz")
        state.parameters[:], state.first[:], state.second[:] = saved["parameters"], saved["first"], saved["second"]
        start = int(saved["step"])
    else:
        for name, value in initial_parameters(shape, args.seed).items():
            layout.views(state.parameters)[name][...] = value
        state.first[:] = state.second[:] = 0
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    workers = [
        context.Process(target=run_worker, args=(rank, state.name, barrier, args.seed, work, start), daemon=True)
        for rank in range(PROCESSES)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        state.unlink()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a training process failed")


if __name__ == "__main__":
    main()
