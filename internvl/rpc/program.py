"""What `python -m SERVICE` does around a service."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol, TypeVar

from internvl.errors import CheckpointError, ConfigError, InternalError
from internvl.rpc.config import ServerConfig
from internvl.telemetry import configure_logging


class HasServer(Protocol):
    """The configuration of any tier."""

    @property
    def server(self) -> ServerConfig: ...


C = TypeVar("C", bound=HasServer)


def run_program(
    name: str, parse: Callable[[Sequence[str]], C], serve: Callable[[C], Coroutine[None, None, None]]
) -> int:
    """Run a service until it is told to stop, with the flags of this process.

    Returns:
        The exit status: 0 after a stop, 2 for a configuration or checkpoint that cannot be served, 1 for a
        crash.
    """
    try:
        config = parse(sys.argv[1:])
        configure_logging(config.server.log_level)
        asyncio.run(serve(config))
    except (CheckpointError, ConfigError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except InternalError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    return 0
