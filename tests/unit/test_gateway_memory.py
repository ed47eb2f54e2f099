"""Memory of tiles is taken from the kernel once, not once for each tile."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Four tiles at a time, fifty times: 384 pages each. Imports take pages of their own.
_TILES = """
import resource, sys
if sys.argv[1] == "kept":
    from gateway.memory import keep_freed_memory
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
for _ in range(50):
    tiles = [b"x" * (3 * 2**19 - number) for number in range(4)]
    del tiles
print(faults() - before)
"""


@pytest.mark.skipif(
    not hasattr(os, "confstr") or not (os.confstr_names.get("CS_GNU_LIBC_VERSION")), reason="GNU's C library"
)
def test_pages_of_one_tile_serve_the_next() -> None:
    assert _faults("kept") < _faults("not") / 3


def _faults(how: str) -> int:
    # The library's own threshold, which it would raise by itself on some layouts of memory and not on others;
    # and nothing of what the recipe of nano sets for its process, and so for all that a worker starts later.
    others = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = others | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    command = [sys.executable, "-c", _TILES, how]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=60, env=environment)
    return int(ran.stdout)
