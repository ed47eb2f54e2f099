"""What a process is set up with before paddle, and the devices it may ask for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from internvl.checkpoint.weight_format import WeightFormat
from internvl.errors import ConfigError
from kernels.runtime import CPU, Device, open_device

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that has none of the settings."""
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_importing_kernels_prepares_the_process_without_paddle():
    code = (
        "import os, sys, kernels.runtime\n"
        f"print(*[os.environ[name] for name in {NAMES}], os.environ['MKL_DYNAMIC'], 'paddle' in sys.modules)"
    )
    cores = str(len(os.sched_getaffinity(0)))
    assert run(code).stdout.split() == [cores, cores, cores, "FALSE", "False"]
    assert run(code, OMP_NUM_THREADS="3").stdout.split()[:3] == ["3", "3", "3"]


def test_small_model_gets_one_thread_unless_told_otherwise():
    code = (
        "import os, kernels.runtime as runtime\n"
        "from dataclasses import replace\n"
        "from internvl.checkpoint.series import series_config\n"
        "from internvl.model_config import parse_model_config\n"
        "full = parse_model_config(series_config('InternVL2-4B'))\n"
        "small = replace(full, vision=replace(full.vision, hidden_size=128, intermediate_size=384),\n"
        "                llm=replace(full.llm, hidden_size=192, intermediate_size=512))\n"
        "def threads(*given):\n"
        "    runtime.prepare(*given)\n"
        "    return os.environ['OMP_NUM_THREADS']\n"
        "print(threads(None, small), threads(None, full), threads(), threads(7, small))"
    )
    cores = str(len(os.sched_getaffinity(0)))
    assert run(code).stdout.split() == ["1", cores, cores, "7"]
    assert run(code, OMP_NUM_THREADS="3").stdout.split() == ["3", "3", "3", "7"]


def test_thread_count_is_fixed_once_paddle_is_imported():
    code = (
        "import kernels.runtime as runtime\n"
        "runtime.prepare(threads=1)\n"
        "import kernels.ops\n"
        "runtime.prepare()\n"
        "runtime.prepare(threads=1)\n"
        "runtime.prepare(threads=5)\n"
    )
    result = run(code)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("ConfigError: threads: must be set before paddle is imported")


def test_importing_the_operators_prints_nothing():
    result = run("import kernels.ops")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_cpu_computes_in_float32():
    assert open_device("cpu") == CPU == Device("cpu", 0, "float32")
    assert open_device("cpu", WeightFormat.W4) == Device("cpu", 0, "float32", WeightFormat.W4)


def test_codes_are_for_cpu_only():
    with pytest.raises(ConfigError, match="--quantize int8: only on cpu"):
        open_device("gpu", WeightFormat.INT8)


@pytest.mark.parametrize("name", ["tpu", "gpu:", "gpu:x", "cpu:0", "", "gpu:-1"])
def test_unknown_device_is_refused(name):
    with pytest.raises(ConfigError, match="is not one of cpu, gpu, gpu:N"):
        open_device(name)


def test_gpu_needs_a_paddle_with_cuda():
    import paddle

    if paddle.device.is_compiled_with_cuda():
        pytest.skip("this paddle has CUDA")
    with pytest.raises(
        ConfigError, match="gpu:1 needs a paddlepaddle-gpu build; the installed paddle has no"
    ):
        open_device("gpu:1")
