"""Ports for services that have yet to start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

# Below those that Linux gives to connections: one of them could take a port before its service does.
_PORTS = range(20_000, 32_000)
_TRIES_EACH = 100


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody listens on at this moment.

    Raises:
        OSError: not so many were found.
    """
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(_PORTS, min(len(_PORTS), _TRIES_EACH * count)):
            if len(ports) == count:
                break
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    if len(ports) < count:
        raise OSError(f"no {count} ports of 127.0.0.1 are free")
    return ports
