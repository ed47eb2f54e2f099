"""What a run of an hour says while it goes on."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Print a line with the time, beside the table that goes to standard output."""
    print(time.strftime("[%H:%M:%S]"), text, file=sys.stderr, flush=True)
