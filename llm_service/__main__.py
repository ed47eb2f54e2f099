"""`python -m llm_service`."""

from __future__ import annotations

import sys

from internvl.rpc import run_program
from kernels.runtime import prepare
from llm_service.config import parse_config
from llm_service.service import serve


def main() -> int:
    """Run the service until it is told to stop; see `run_program` for the exit status."""
    prepare()  # before there is a thread with a heap of its own
    return run_program("llm_service", parse_config, serve)


if __name__ == "__main__":
    sys.exit(main())
