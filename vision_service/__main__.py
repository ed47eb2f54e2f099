"""`python -m vision_service`: serve the vision tier."""

from __future__ import annotations

import asyncio
import sys

from internvl.errors import CheckpointError, ConfigError
from internvl.telemetry import configure_logging
from vision_service.config import parse_config
from vision_service.service import serve


def main() -> int:
    """Run the service; returns the exit status."""
    try:
        config = parse_config()
        configure_logging(config.server.log_level)
        asyncio.run(serve(config))
    except (CheckpointError, ConfigError) as error:
        sys.stderr.write(f"vision_service: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
