"""Who runs: each engine with each of its settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.checkpoints import ROOT, Checkpoints
from benchmarks.peers.environments import LLAMA, TRANSFORMERS, VLLM, Environment, python_of, variables_of
from kernels.runtime import cpu_flags

OURS, ONE_PROCESS = "ours", "one-process"
PEERS = ("vllm", "llama", "transformers")

_LLAMA_FORMS = {"int8": "q8_0", "w4": "q4_k_m", "bf16": "bf16"}

FORMATS = tuple(_LLAMA_FORMS)
"""The weight formats of ours; each is compared with llama.cpp's own of that size."""

_PROGRAMS = "benchmarks.peers.programs"


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine with one setting.

    Attributes:
        engine: `ours`, `one-process` or one of `PEERS`.
        form: how it keeps its weights: `bf16`, `fp32`, `int8`, `w4`, `q8_0` or `q4_k_m`.
        setting: what else was chosen; of several the best counts.
    """

    engine: str
    form: str
    setting: str = ""

    @property
    def name(self) -> str:
        """For people and for the record."""
        return " ".join(filter(None, (self.engine, self.form, self.setting)))


@dataclass(frozen=True, slots=True)
class Start:
    """How to start a contestant.

    Attributes:
        path: where it finds modules; it runs in the first of these folders.
    """

    command: tuple[str, ...]
    variables: dict[str, str]
    path: tuple[Path, ...] = (ROOT, ROOT / "clients")


def contestants(formats: Sequence[str], peers: Sequence[str], *, ours: bool = True) -> list[Contestant]:
    """All that matter for these weight formats of ours, in the order in which they first run."""
    rivals = (each for each in _all_peers(formats) if each.engine in peers)
    return [*(_ours(formats) if ours else ()), *rivals]


def _ours(formats: Sequence[str]) -> Iterator[Contestant]:
    for form in formats:
        yield Contestant(OURS, form)
    if "int8" in formats:
        yield Contestant(ONE_PROCESS, "int8")


def _all_peers(formats: Sequence[str]) -> Iterator[Contestant]:
    for ours, theirs in _LLAMA_FORMS.items():
        if ours in formats:
            yield Contestant("llama", theirs, "fa=off")
            yield Contestant("llama", theirs, "fa=on")
    if {"bf16", "int8"} & set(formats):
        yield Contestant("vllm", full_form())
        yield Contestant("transformers", full_form())


def full_form() -> str:
    """What torch keeps weights in here: without AVX-512 oneDNN has no product of bfloat16, and torch's own is
    six times slower than float32 (12 and 74 GFLOP/s)."""
    return "bf16" if "avx512f" in cpu_flags() else "fp32"


def start_of(contestant: Contestant, checkpoints: Checkpoints, threads: int) -> Start:
    """Make ready whatever it needs, and say how to start it.

    Raises:
        NotRunError: its environment or its model cannot be made.
    """
    match contestant.engine:
        case "llama":
            switch = contestant.setting.removeprefix("fa=")
            model = checkpoints.gguf(contestant.form)
            return _peer(LLAMA, "llama_cpp", checkpoints, threads, model, "--flash-attention", switch)
        case "vllm":
            model = checkpoints.description()
            return _peer(VLLM, "vllm_cpu", checkpoints, threads, model, "--dtype", _dtype(contestant))
        case "transformers":
            model = checkpoints.description()
            return _peer(
                TRANSFORMERS, "torch_eager", checkpoints, threads, model, "--dtype", _dtype(contestant)
            )
        case engine:
            program = "one_process" if engine == ONE_PROCESS else "services"
            command = _command(Path(sys.executable), program, threads, checkpoints.released_layout())
            return Start((*command, "--weights", contestant.form), {})


def _peer(
    environment: Environment, program: str, checkpoints: Checkpoints, threads: int, model: Path, *flags: str
) -> Start:
    python = python_of(environment, checkpoints.cache)
    variables = variables_of(environment, checkpoints.cache)
    return Start(
        (*_command(python, program, threads, model), *flags), variables, (programs(checkpoints.cache),)
    )


def programs(cache: Path) -> Path:
    """A folder that holds nothing but `benchmarks`: peers would take packages of this project, `kernels` for
    one, for others that have the same name."""
    folder = cache / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "benchmarks"
    link.unlink(missing_ok=True)
    link.symlink_to(ROOT / "benchmarks")
    return folder


def _command(python: Path, program: str, threads: int, model: Path) -> tuple[str, ...]:
    return (str(python), "-m", f"{_PROGRAMS}.{program}", "--model", str(model), "--threads", str(threads))


def _dtype(contestant: Contestant) -> str:
    return {"bf16": "bfloat16", "fp32": "float32"}[contestant.form]
