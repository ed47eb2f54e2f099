"""How much memory a process may use: the machine's, or less if a control group says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernels.memory import device_memory, machine_memory
from kernels.runtime import CPU

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def groups(folder: Path, limits: dict[str, str], membership: str) -> int:
    """Memory of a process with these control groups."""
    for name, text in limits.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "membership").write_text(membership)
    return machine_memory(folder / "cgroup", folder / "membership")


@pytest.mark.parametrize(
    ("limits", "membership", "expected"),
    [
        ({}, "0::/\n", PHYSICAL),
        ({"memory.max": "max\n"}, "0::/\n", PHYSICAL),
        ({"memory.max": "1048576\n"}, "0::/\n", 1048576),
        ({"memory.max": "9000000000000000000"}, "0::/\n", PHYSICAL),
        ({"a/b/memory.max": "max", "a/memory.max": "4096"}, "0::/a/b\n", 4096),
        ({"a/memory.max": "8192", "memory.max": "4096"}, "0::/a\n", 4096),
        ({"elsewhere/memory.max": "4096"}, "0::/a\n", PHYSICAL),
        ({"memory/a/memory.limit_in_bytes": "4096"}, "5:cpu,memory:/a\n0::/\n", 4096),
        ({"memory/memory.limit_in_bytes": "4096"}, "5:memory:/a/b\n", 4096),
        ({"memory.max": "1048576"}, "0::/../..\n", 1048576),
    ],
)
def test_the_least_limit_counts(
    tmp_path: Path, limits: dict[str, str], membership: str, expected: int
) -> None:
    assert groups(tmp_path, limits, membership) == expected


def test_a_system_without_control_groups_has_what_it_has(tmp_path: Path) -> None:
    assert machine_memory(tmp_path / "none", tmp_path / "nothing") == PHYSICAL


def test_a_processor_computes_in_the_memory_of_the_machine() -> None:
    assert 0 < device_memory(CPU) <= PHYSICAL
