"""`python -m gateway`."""

from __future__ import annotations

import sys

from gateway.config import parse_config
from gateway.server import serve
from internvl.rpc import run_program


def main() -> int:
    """Run the service until it is told to stop; see `run_program` for the exit status."""
    return run_program("gateway", parse_config, serve)


if __name__ == "__main__":
    sys.exit(main())
