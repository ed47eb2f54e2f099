"""Large blocks of memory that operators ask for again and again."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap

import pytest

_BLOCK_MIB, _TIMES = 96, 8
_PAGES_OF_A_BLOCK = _BLOCK_MIB * 256

_PROGRAM = f"""
    import ctypes, importlib, resource, sys, threading

    program = importlib.import_module(sys.argv[1] + ".__main__")
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

    def use_a_block():
        place = library.malloc({_BLOCK_MIB} << 20)
        library.memset(place, 1, {_BLOCK_MIB} << 20)
        library.free(place)

    def compute():
        use_a_block()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range({_TIMES}):
            use_a_block()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    def serve_with_a_thread(*_):
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()

    program.run_program = serve_with_a_thread
    program.main()
"""


@pytest.mark.parametrize("service", ["vision_service", "llm_service"])
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_thread_of_a_service_gets_the_same_pages_for_every_large_block(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM), service],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(done.stdout) < _PAGES_OF_A_BLOCK / 100
