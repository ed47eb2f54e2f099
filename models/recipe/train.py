"""Train nano: `python -m models.recipe.train`. Seeded; run it again to resume from the last checkpoint."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import time
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from models.recipe import runtime
from models.recipe.optimizer import Layout, SharedState
from models.recipe.schedule import PHASES, Phase, locate, rate_at, total_steps
from models.recipe.sizes import Shape, initial_parameters, parameter_shapes
from models.recipe.tokens import Tokenizer, build_tokenizer

if TYPE_CHECKING:
    from models.recipe.worker import Worker

PROCESSES = 2
CHECKPOINT_SECONDS = 180
PROBE_SECONDS = 300
PROBE_KEYS = (7,)
SMOOTHING = 0.05
CHECKPOINT = "checkpoint.npz"
MODELS = Path(__file__).resolve().parents[1]


class Reporter:
    """What the first process does besides training: progress bar, checkpoints, held-out probes."""

    def __init__(self, worker: Worker, start: int) -> None:
        self._worker = worker
        self._bar = tqdm(total=total_steps(), initial=start, unit="step", smoothing=0.02, mininterval=10)
        self._averages: dict[str, float] = {}
        self._saved = self._probed = time.monotonic()

    def report(self, phase: Phase, step: int, losses: dict[str, float], norm: float) -> None:
        """Account for one finished step."""
        for name, value in losses.items():
            before = self._averages.get(name, value)
            self._averages[name] = before + SMOOTHING * (value - before)
        text = " ".join(f"{name}={value:.2f}" for name, value in self._averages.items())
        self._bar.set_description(phase.name, refresh=False)
        self._bar.set_postfix_str(f"{text} |g|={norm:.1f}", refresh=False)
        self._bar.update()
        now, last = time.monotonic(), step + 1 == total_steps()
        if last or now - self._saved > CHECKPOINT_SECONDS:
            self._worker.save(step + 1)
            self._saved = now
        if last or (now - self._probed > PROBE_SECONDS and not phase.labels_only):
            self._probe(phase, step + 1)
            self._probed = time.monotonic()

    def _probe(self, phase: Phase, step: int) -> None:
        from models.recipe.probe import measure

        worker = self._worker
        tally = measure(worker.network, worker.tokenizer, phase.level, PROBE_KEYS, rounds=2)
        rows = {name: round(right / asked, 3) for name, (right, asked) in tally.items()}
        overall = sum(right for right, _ in tally.values()) / sum(asked for _, asked in tally.values())
        table = "  ".join(f"{name} {value:.2f}" for name, value in rows.items())
        tqdm.write(f"step {step} held-out {overall:.3f}  {table}")
        line = {"step": step, "overall": overall, "time": time.time(), "rows": rows}
        with (worker.work / "probes.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def run_worker(rank: int, memory: str, barrier: Barrier, seed: int, work: Path, start: int) -> None:
    """Body of one process; a failure breaks the barrier, so that the other process ends too."""
    try:
        _train(rank, memory, barrier, seed, work, start)
    except BaseException:
        barrier.abort()
        raise


def _train(rank: int, memory: str, barrier: Barrier, seed: int, work: Path, start: int) -> None:
    from models.recipe.worker import Worker

    worker = Worker(rank, PROCESSES, memory, barrier, seed, work)
    reporter = Reporter(worker, start) if rank == 0 else None
    phase, _ = locate(start)
    rates = worker.rates(phase)
    for step in range(start, total_steps()):
        current, within = locate(step)
        if current is not phase:
            phase, rates = current, worker.rates(current)
        losses = worker.backward(phase, step)
        norm = worker.optimizer.step(rates, rate_at(phase, within), step + 1)
        if reporter:
            reporter.report(phase, step, losses, norm)


def load_or_start(work: Path, state: SharedState, layout: Layout, shape: Shape, seed: int) -> int:
    """Fill the shared state from the last checkpoint or with start values; returns the steps already done."""
    if not (work / CHECKPOINT).exists():
        views = layout.views(state.parameters)
        for name, value in initial_parameters(shape, seed).items():
            views[name][...] = value
        state.first[:] = state.second[:] = 0
        return 0
    with np.load(work / CHECKPOINT) as saved:
        state.parameters[:] = saved["parameters"]
        state.first[:] = saved["first"]
        state.second[:] = saved["second"]
        return int(saved["step"])


def run(work: Path, seed: int) -> None:
    """Train in `PROCESSES` processes until the schedule is done; raises SystemExit if one of them fails."""
    work.mkdir(parents=True, exist_ok=True)
    build_tokenizer(work / "tokenizer.model")
    (work / "schedule.json").write_text(json.dumps([asdict(phase) for phase in PHASES], indent=1))
    shape = Shape(vocabulary=Tokenizer(work / "tokenizer.model").size)
    layout = Layout(parameter_shapes(shape))
    state = SharedState(layout.size, PROCESSES)
    try:
        start = load_or_start(work, state, layout, shape, seed)
        if start >= total_steps():
            return
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(PROCESSES)
        jobs = [
            context.Process(
                target=run_worker, args=(rank, state.name, barrier, seed, work, start), daemon=True
            )
            for rank in range(PROCESSES)
        ]
        # Inherited by the workers: Ctrl-C reaches the whole process group, and this process alone answers it.
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for job in jobs:
            job.start()
        signal.signal(signal.SIGINT, answer)
        for job in jobs:
            job.join()
    except KeyboardInterrupt:
        for job in jobs:
            job.kill()
        raise SystemExit(
            f"\nstopped; run it again to go on from the last checkpoint, at most {CHECKPOINT_SECONDS} s back"
        ) from None
    finally:
        state.unlink()
    if any(job.exitcode for job in jobs):
        raise SystemExit("a training process failed; its error is above")


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=MODELS / ".work", help="checkpoints (default models/.work)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of drawings and start values (default 1)")
    args = parser.parse_args()
    runtime.apply()
    run(args.work, args.seed)


if __name__ == "__main__":
    main()
