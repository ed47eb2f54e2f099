"""From the target of a tier to the addresses of its replicas."""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass

_HOST_AND_PORT = re.compile(r"(?:dns:(?:///)?)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/,\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to look for replicas.

    Attributes:
        host: a name with an address for each replica, such as a headless service of Kubernetes, or one
            address; for a unix socket its whole `unix:` path.
        port: of all of them; None for a unix socket.
    """

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `host:port`, `dns:///host:port` or `unix:path`.

        Raises:
            ValueError: anything else.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(text, None)
        match = _HOST_AND_PORT.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError("expected HOST:PORT, dns:///HOST:PORT or unix:PATH")
        return cls(match["host"].strip("[]"), int(match["port"]))

    async def resolve(self) -> frozenset[str]:
        """The gRPC addresses behind it at this moment.

        Raises:
            OSError: the name cannot be resolved.
        """
        if self.port is None:
            return frozenset([self.host])
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return frozenset(_address(family, endpoint) for family, *_, endpoint in found)


def _address(family: int, endpoint: tuple[object, ...]) -> str:
    host, port = endpoint[:2]
    return f"ipv6:[{host}]:{port}" if family == socket.AF_INET6 else f"ipv4:{host}:{port}"
