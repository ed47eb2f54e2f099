"""Pictures and films by https URL, fetched so that nobody can make this server look where it should not.

Off by default. Only hosts on the allow-list are asked; only over https on its own port; only at global
addresses, and the connection goes to the very address that was checked, with the name kept for TLS and Host.
No redirect is followed; bytes and time are bounded. The URL is taken apart once, by one expression, and only
its pieces are used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import h11

from gateway.http.config import RemoteMediaConfig
from internvl.errors import BadMedia, PermissionDenied
from internvl.telemetry import get_logger

# No user, no port, no fragment, no backslash, nothing but visible ASCII.
_URL = re.compile(r"https://([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)((?:[/?][!\"$-\[\]-~]*)?)")
_MAX_URL = 2048
_PORT = 443
_PIECE = 2**16
_MAX_HEADERS = 2**15

_log = get_logger("media")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Network(Protocol):
    """What fetching needs of the world."""

    async def resolve(self, host: str) -> Sequence[Address]:
        """All addresses of a host; OSError where there is none."""

    async def connect(self, address: Address, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TLS connection to this address whose certificate is checked for this host."""


class Internet:
    """The real one."""

    def __init__(self, port: int = _PORT) -> None:
        """`port` is where hosts serve https."""
        self._port = port

    async def resolve(self, host: str) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(entry[4][0]) for entry in found]

    async def connect(self, address: Address, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context()
        return await asyncio.open_connection(
            str(address), self._port, ssl=context, server_hostname=host, limit=_PIECE
        )


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    path: str


class RemoteMedia:
    """Fetches files from allowed hosts."""

    def __init__(self, config: RemoteMediaConfig, network: Network | None = None) -> None:
        self._config = config
        self._network = network or Internet()
        self._places = asyncio.Semaphore(config.max_concurrent)

    @asynccontextmanager
    async def fetch(self, url: str, field: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a file, piece by piece, while the block runs.

        Args:
            url: what the client sent.
            field: the request's field that holds it, for errors.

        Raises:
            PermissionDenied: fetching is off, or this host is not allowed.
            BadMedia: it is no URL that can be fetched, or fetching it failed.
        """
        target = self._read(url, field)
        try:
            async with (
                self._places,
                asyncio.timeout(self._config.timeout_s),
                self._opened(target, field) as (reader, writer),
            ):
                yield _body_of(target, reader, writer, field)
        except TimeoutError:
            raise BadMedia(field, f"the file did not come within {self._config.timeout_s:g} s") from None
        except (OSError, h11.ProtocolError, asyncio.IncompleteReadError) as error:
            _log.info("fetching media failed", problem=type(error).__name__)
            raise BadMedia(field, "the file could not be fetched") from None

    def _read(self, url: str, field: str) -> _Target:
        if not self._config.domains:
            raise PermissionDenied(
                f"{field}: this server fetches nothing by URL; send the file as a data: URL instead"
            )
        match = _URL.fullmatch(url) if len(url) <= _MAX_URL else None
        if match is None:
            raise BadMedia(field, "must be a data: URL or a plain https URL without user, port and fragment")
        host, path = match[1].lower(), match[2]
        if not any(_covers(domain, host) for domain in self._config.domains):
            raise PermissionDenied(f"{field}: this server fetches nothing from this host")
        return _Target(host, path if path.startswith("/") else f"/{path}")

    @asynccontextmanager
    async def _opened(
        self, target: _Target, field: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        addresses = await self._network.resolve(target.host)
        # One private address among public ones is an attack, or a mistake.
        if not addresses or not all(map(is_global, addresses)):
            _log.warning("host on the allow-list has no global address")
            raise BadMedia(field, "the file could not be fetched")
        reader, writer = await self._connect(addresses, target.host)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _connect(
        self, addresses: Sequence[Address], host: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The first of them that answers: not every machine has a way to IPv6."""
        *first, last = addresses
        for address in first:
            with suppress(OSError):
                return await self._network.connect(address, host)
        return await self._network.connect(last, host)


def is_global(address: Address) -> bool:
    """Whether an address is one of the public internet: of one host, and no way round to a private one."""
    if isinstance(address, ipaddress.IPv4Address):
        special = any(address in network for network in _SPECIAL_V4)
        return address.is_global and not address.is_multicast and not special
    # Only what is given out to hosts today. The rest holds all that embeds or translates IPv4 addresses, but
    # for 6to4 and Teredo.
    special = address.sixtofour is not None or address.teredo is not None
    return address in _UNICAST_V6 and address.is_global and not special


_SPECIAL_V4 = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24")))
_UNICAST_V6 = ipaddress.ip_network("2000::/3")


def _covers(domain: str, host: str) -> bool:
    return host.endswith(domain[1:]) if domain.startswith("*.") else host == domain


async def _body_of(
    target: _Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, field: str
) -> AsyncIterator[bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADERS)
    request = h11.Request(
        method="GET",
        target=target.path,
        headers=[
            ("host", target.host),
            ("user-agent", "internvl-serve"),
            ("accept", "image/*, video/*"),
            ("accept-encoding", "identity"),
            ("connection", "close"),
        ],
    )
    writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_PIECE))
        elif isinstance(event, h11.Response):
            _check_response(event, field)
        elif isinstance(event, h11.Data):
            yield bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection ended early")


def _check_response(response: h11.Response, field: str) -> None:
    if 300 <= response.status_code < 400:
        raise BadMedia(field, "the host answers with a redirect, which is not followed")
    if response.status_code != 200:
        raise BadMedia(field, f"the host answers with status {response.status_code}")
    encodings = [value for name, value in response.headers if name == b"content-encoding"]
    if any(value.lower() != b"identity" for value in encodings):
        raise BadMedia(field, "the host answers with a compressed body")
