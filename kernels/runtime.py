"""Process set-up for Paddle on this machine, and the choice of the device it computes on.

Paddle reads its environment once, at import. `prepare` must run before that; importing `kernels` does it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from internvl.checkpoint.weight_format import WeightFormat
from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig

DType = Literal["float32", "bfloat16"]

# mallopt(3) parameters (malloc.h). Paddle's CPU tensors are plain malloc'ed blocks: with glibc's defaults
# every large activation is mmap'ed, page-faulted and unmapped again on each operator, which costs more than
# the arithmetic (add of 16 MiB: 10 ms, with these settings 1 ms; LayerNorm of 4 MiB: 6.4 ms, then 0.6 ms).
_MALLOC_SETTINGS = (
    (-3, 1 << 30),  # M_MMAP_THRESHOLD: blocks below 1 GiB come from the heap and are reused
    (-1, (1 << 31) - 1),  # M_TRIM_THRESHOLD: keep freed memory, the next operator wants it back
    (-2, 1 << 28),  # M_TOP_PAD: grow the heap in steps of 256 MiB (address space, touched only on use)
    (-8, 1),  # M_ARENA_MAX: a second thread gets the same heap, not a 64 MiB arena that falls back to mmap
)


# What the operator asked for, before `prepare` writes the same variable.
_GIVEN_THREADS = os.environ.get("OMP_NUM_THREADS")

# Weights of a product from which on a second thread pays.
_SHARED_PRODUCT = 1 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """Where and in which type a model computes.

    Attributes:
        kind: "cpu" or "gpu".
        index: number of the GPU; 0 on CPU.
        dtype: type of activations, and of all weights but matrices. Norm statistics and softmax are float32
            in any case.
        weights: how matrices are kept; on GPU as `dtype`.
    """

    kind: Literal["cpu", "gpu"]
    index: int
    dtype: DType
    weights: WeightFormat = WeightFormat.FLOAT32

    @property
    def place(self) -> str:
        """Paddle's name of the device."""
        return "cpu" if self.kind == "cpu" else f"gpu:{self.index}"


CPU = Device("cpu", 0, "float32")

_ON_GPU: dict[WeightFormat, DType] = {WeightFormat.FLOAT32: "float32", WeightFormat.BFLOAT16: "bfloat16"}


def prepare(threads: int | None = None, config: InternVLConfig | None = None) -> None:
    """Set what Paddle, MKL, OpenMP and malloc read from the process; a no-op once paddle is imported.

    A program calls it before it starts threads, for malloc; again with a count once that is known.

    Args:
        threads: size of the compute pool. By default what OMP_NUM_THREADS said when this process started,
            else what suits `config`, else one thread a core.
        config: the model this process will run, where it is known.

    Raises:
        ConfigError: `threads` asks for another count than the one paddle was already imported with.
    """
    count = str(threads or _GIVEN_THREADS or _suitable_threads(config))
    if "paddle" in sys.modules:
        if threads is not None and os.environ.get("OMP_NUM_THREADS") != count:
            raise ConfigError("threads: must be set before paddle is imported")
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads"):
        os.environ[name] = count
    # MKL may otherwise use fewer threads than it was given; measured 1 of 2.
    os.environ["MKL_DYNAMIC"] = "FALSE"
    # Idle threads spin for 1 ms, not 200: tiers share cores, and who spins for a preempted thread only keeps
    # it waiting (13 small tiles on two busy cores: 1,400 ms with 200, 470 with 0). Not 0: a token of the
    # released size is 200 operators in a row, and waking a thread for each costs a fifth of it (six layers in
    # w4: 24 to 31 ms with 0, 20 to 24 with 1).
    os.environ.setdefault("KMP_BLOCKTIME", "1")
    if _is_amd():
        # The MKL in Paddle's wheel takes a generic SSE path on AMD unless told to trust AVX2:
        # 38 -> 191 GFLOP/s for a float32 product of 256 x 3072 x 9216 on two Zen 4 cores.
        os.environ["MKL_DEBUG_CPU_TYPE"] = "5"
    _tune_malloc()
    # Paddle looks for a compiler cache at import; a server compiles nothing.
    warnings.filterwarnings("ignore", message="No ccache found")


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Hide the advice on OMP_NUM_THREADS that paddle prints at import; it is about OpenBLAS builds."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def open_device(name: str, weights: WeightFormat | None = None) -> Device:
    """Check that this machine has the device and make it Paddle's current one on the calling thread.

    Call it on the thread that will compute: eager mode and the current device are kept per thread.

    Args:
        name: "cpu", "gpu" or "gpu:N".
        weights: how to keep matrices; by default float32 on CPU and bfloat16 on GPU. Activations are float32
            on CPU, and of the same type as the weights on GPU.

    Raises:
        ConfigError: unknown name, no CUDA in the installed paddle, no such GPU, or a format the device lacks.
    """
    match = re.fullmatch(r"cpu|gpu(?::(\d+))?", name)
    if match is None:
        raise ConfigError(f"device: {name!r} is not one of cpu, gpu, gpu:N")
    if name == "cpu":
        return _activate(replace(CPU, weights=weights or CPU.weights))
    weights = weights or WeightFormat.BFLOAT16
    if weights not in _ON_GPU:
        raise ConfigError(f"--quantize {weights.value}: only on cpu")
    device = Device("gpu", int(match[1] or 0), _ON_GPU[weights], weights)
    _check_gpu(device)
    return _activate(device)


def _activate(device: Device) -> Device:
    with quiet_import():
        import paddle

    # Eager mode belongs to the thread that imported paddle; any other starts out building static graphs.
    paddle.disable_static()
    paddle.device.set_device(device.place)
    return device


def _check_gpu(device: Device) -> None:
    with quiet_import():
        import paddle

    if not paddle.device.is_compiled_with_cuda():
        raise ConfigError(
            f"device: {device.place} needs a paddlepaddle-gpu build; the installed paddle has no CUDA"
        )
    count = paddle.device.cuda.device_count()
    if device.index >= count:
        raise ConfigError(f"device: {device.place} does not exist; this machine has {count} GPU(s)")


def _suitable_threads(config: InternVLConfig | None) -> int:
    """One thread for a model whose products are too small to share, all cores for any other.

    The embedded model decodes with 4 ms of CPU time a token on one thread and 9 ms on two, which wait for
    each other at every operator; eight sequences at once take 13 and 44 ms.
    """
    cores = len(os.sched_getaffinity(0))
    if config is None:
        return cores
    parts = (config.vision, config.llm)
    widest = max(part.hidden_size * part.intermediate_size for part in parts)
    return 1 if widest < _SHARED_PRODUCT else cores


def give_back_memory() -> None:
    """Return what was freed to the system; malloc would keep it, and no operator needs that much again."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def cpu_flags() -> frozenset[str]:
    """The processor's features by Linux's names, for example `avx512f`; none if it does not say."""
    match = re.search(r"^flags\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def _is_amd() -> bool:
    return "AuthenticAMD" in _cpuinfo()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _tune_malloc() -> None:
    """Apply the malloc settings to the running process (MALLOC_* variables only count at its start)."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc: correct all the same, only slower
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC_SETTINGS:
            mallopt(parameter, value)
