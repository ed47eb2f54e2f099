"""What the operating system lets a decoder process take: memory, processor time, no core file."""

from __future__ import annotations

import math
import resource
from pathlib import Path


def limit_memory(budget_bytes: int) -> None:
    """From now on this process gets `budget_bytes` beyond what it has; more is a MemoryError. For good.

    It counts address space, the one measure that Linux enforces for a process without a control group.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + budget_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_processor_time(seconds: float) -> None:
    """From now on this process computes for `seconds` and a little more; then SIGXCPU ends it.

    Whoever waits for the process ends it earlier; this holds when nobody is left to wait.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1, hard))


def leave_no_core_file() -> None:
    """A crash must not write the file of a user to disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
