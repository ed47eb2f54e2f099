"""`python -m gateway`."""

from __future__ import annotations

import asyncio
import sys

from gateway.config import parse_config
from gateway.server import serve
from internvl.errors import ConfigError
from internvl.telemetry import configure_logging


def main() -> int:
    """Run the gateway until it is told to stop; 1 for a configuration that cannot be used."""
    try:
        config = parse_config(sys.argv[1:])
        configure_logging(config.server.log_level)
        asyncio.run(serve(config))
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
