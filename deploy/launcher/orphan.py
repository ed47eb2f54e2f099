"""`python orphan.py COMMAND ...`: become that command, and end with the process that started it.

A launcher that is killed cannot stop its services; the kernel does it. Linux only; elsewhere this only runs
the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606
