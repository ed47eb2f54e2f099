"""`python -m llm_service`."""

from __future__ import annotations

import asyncio
import sys

from internvl.errors import CheckpointError, ConfigError, InternalError
from internvl.telemetry import configure_logging
from llm_service.config import parse_config
from llm_service.service import serve


def main() -> int:
    """Run the service until it is told to stop; 2 for what cannot be served, 1 for a crash."""
    try:
        config = parse_config(sys.argv[1:])
        configure_logging(config.server.log_level)
        asyncio.run(serve(config))
    except (CheckpointError, ConfigError) as error:
        print(f"llm_service: {error}", file=sys.stderr)
        return 2
    except InternalError as error:
        print(f"llm_service: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
