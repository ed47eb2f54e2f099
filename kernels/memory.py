"""How much memory a device has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kernels.runtime import Device, quiet_import

_CGROUPS = Path("/sys/fs/cgroup")


def device_memory(device: Device) -> int:
    """Bytes of memory that computing on this device may use."""
    if device.kind == "cpu":
        return machine_memory()
    with quiet_import():
        import paddle

    return int(paddle.device.cuda.get_device_properties(device.index).total_memory)


def machine_memory(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of physical memory, or the least limit of this process's control groups (v1 or v2)."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_limits(cgroups, membership)])


def _limits(cgroups: Path, membership: Path) -> Iterator[int]:
    for file in _limit_files(cgroups, membership):
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:  # no such group, or not for us to read
            continue
        if text.isdecimal():  # v2 writes `max` where there is no limit
            yield int(text)


def _limit_files(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Where limits are written: in a process's groups and in all above them; in a container, at the root."""
    try:
        groups = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        groups = []
    for _, controllers, path in groups:
        if not controllers:
            yield from _upwards(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(cgroups / "memory", path, "memory.limit_in_bytes")


def _upwards(root: Path, path: str, name: str) -> Iterator[Path]:
    group = root / path.lstrip("/")
    while group != root and root in group.parents:
        yield group / name
        group = group.parent
    yield root / name
