"""Media by URL: what is fetched, and what this server cannot be talked into.

Nothing here leaves this machine: names are answered by a stub, and connections go to one beside the test.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import configargparse
import pytest

from gateway.config import Config
from gateway.http.config import HttpConfig, RemoteMediaConfig, add_http_flags
from gateway.http.remote_media import Address, RemoteMedia, is_global
from gateway.storage.media_store import MediaConfig
from internvl.errors import BadMedia, ConfigError, PermissionDenied
from internvl.rpc import ServerConfig
from tests.contract.fake_vision import picture
from tests.contract.gateway_tiers import bounded
from tests.contract.http_door import HERE, chat, http_stack, image, text

CHAT = "/v1/chat/completions"
PUBLIC = ipaddress.ip_address("93.184.216.34")
PICTURE = picture(1, "remote")
OK = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n%s" % (len(PICTURE), PICTURE)


class Beside:
    """A network of one server, whatever the name.

    Attributes:
        addresses: what names resolve to, one list for each time of asking; the last one stays.
        asked: names that were looked up.
        connected: address and name of every connection.
        requests: what was sent.
        unreachable: addresses where nobody answers.
    """

    def __init__(self, reply: bytes, *addresses: Sequence[str]) -> None:
        self.reply = reply
        self.addresses = list(addresses) or [[str(PUBLIC)]]
        self.asked: list[str] = []
        self.connected: list[tuple[Address, str]] = []
        self.requests: list[bytes] = []
        self.unreachable: set[Address] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        self._port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0) as server:
            self._port = server.sockets[0].getsockname()[1]
            yield

    async def resolve(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        found = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [ipaddress.ip_address(address) for address in found]

    async def connect(self, address: Address, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connected.append((address, host))
        if address in self.unreachable:
            raise OSError("no route to host")
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        await self.hold.wait()
        writer.write(self.reply)
        await writer.drain()
        writer.close()


ALLOWED = RemoteMediaConfig(domains=("example.com", "*.pictures.example.org"))


async def fetch(url: str, network: Beside, config: RemoteMediaConfig = ALLOWED) -> bytes:
    async with network.serving(), RemoteMedia(config, network).fetch(url, "image_url") as pieces:
        return b"".join([piece async for piece in pieces])


@bounded
async def test_picture_of_an_allowed_host_is_fetched_and_shown() -> None:
    network = Beside(OK)
    config = HttpConfig(listen=HERE, media=ALLOWED)
    shown = chat(text("look"), image("https://example.com/a/b.png?c=d"))
    async with network.serving(), http_stack(config, network=network) as stack:
        reply = await stack.post(CHAT, shown)
        assert reply.status == 200, reply.body
        assert stack.tiers.vision.encoded == [(PICTURE, 0)]
    (request,) = network.requests
    assert request.startswith(b"GET /a/b.png?c=d HTTP/1.1\r\nhost: example.com\r\n")
    assert network.connected == [(PUBLIC, "example.com")]


@bounded
async def test_fetching_is_off_until_a_host_is_allowed() -> None:
    network = Beside(OK)
    async with network.serving(), http_stack(network=network) as stack:
        reply = await stack.post(CHAT, chat(text("look"), image("https://example.com/a.png")))
    assert reply.status == 403
    assert not network.asked


@bounded
async def test_names_below_a_starred_domain_are_allowed() -> None:
    assert await fetch("https://A.Pictures.example.org", Beside(OK)) == PICTURE
    for host in ("pictures.example.org", "evilpictures.example.org", "a.example.com", "example.com.evil.net"):
        network = Beside(OK)
        with pytest.raises(PermissionDenied):
            await fetch(f"https://{host}/a.png", network)
        assert not network.asked


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "gopher://example.com",
        "//example.com/a.png",
        "https://example.com:8443/a.png",
        "https://user@example.com/a.png",
        "https://example.com@127.0.0.1/a.png",
        # Some parsers read a backslash as a slash: another host (GHSA-3f6c-7fw2-ppm4, CVE-2026-24779).
        "https://example.com\\@127.0.0.1/a.png",
        "https://127.0.0.1\\@example.com/a.png",
        "https://example.com#@127.0.0.1/",
        "https://example.com/a.png#b",
        "https://example.com\t.evil.net/",
        "https://example.com/a.png\r\nhost: internal",
        "https://example.com/a b.png",
        "https://exämple.com/a.png",
        "https://example.com%2f@127.0.0.1/",
        "https://[::1]/a.png",
        "https:/example.com/a.png",
        "https://",
        "https://example.com/" + "a" * 3000,
        " https://example.com/a.png",
    ],
)
def test_url_that_two_parsers_could_read_differently_is_refused(url: str) -> None:
    @bounded
    async def run() -> None:
        network = Beside(OK)
        with pytest.raises((BadMedia, PermissionDenied)) as caught:
            await fetch(url, network)
        assert not network.asked
        assert "127.0.0.1" not in caught.value.message

    run()


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "169.254.169.254", "localhost"])
def test_addresses_and_local_names_are_not_on_the_list(host: str) -> None:
    @bounded
    async def run() -> None:
        with pytest.raises(PermissionDenied):
            await fetch(f"https://{host}/", Beside(OK))

    run()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.8",
        "192.88.99.1",
        "198.18.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001::1",
        "2001:db8::1",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_allowed_name_with_a_private_address_is_refused(address: str) -> None:
    @bounded
    async def run() -> None:
        for found in ([address], [str(PUBLIC), address]):
            network = Beside(OK, found)
            with pytest.raises(BadMedia) as caught:
                await fetch("https://example.com/a.png", network)
            assert not network.connected
            assert address not in caught.value.message

    run()


def test_public_addresses_are_global() -> None:
    assert all(is_global(ipaddress.ip_address(address)) for address in ("8.8.8.8", "2606:4700:4700::1111"))


@bounded
async def test_host_is_reached_at_whichever_of_its_addresses_answers() -> None:
    addresses = ["2606:4700:4700::1111", str(PUBLIC)]
    network = Beside(OK, addresses)
    network.unreachable = {ipaddress.ip_address(addresses[0])}
    assert await fetch("https://example.com/a.png", network) == PICTURE
    assert [str(address) for address, _ in network.connected] == addresses
    network.unreachable.add(PUBLIC)
    with pytest.raises(BadMedia, match="could not be fetched"):
        await fetch("https://example.com/a.png", network)


@bounded
async def test_name_that_changes_its_address_is_asked_once() -> None:
    network = Beside(OK, [str(PUBLIC)], ["127.0.0.1"])
    assert await fetch("https://example.com/a.png", network) == PICTURE
    assert (network.asked, network.connected) == (["example.com"], [(PUBLIC, "example.com")])


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1/\r\ncontent-length: 0\r\n\r\n", "redirect"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n", "compressed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut short", "could not be fetched"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "could not be fetched"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "could not be fetched"),
        (b"", "could not be fetched"),
    ],
)
def test_answer_that_is_no_file_is_refused(reply: bytes, problem: str) -> None:
    @bounded
    async def run() -> None:
        with pytest.raises(BadMedia, match=problem) as caught:
            await fetch("https://example.com/a.png", Beside(reply))
        assert not {"127.0.0.1", str(PUBLIC), "example.com"} & set(caught.value.message.split())

    run()


@bounded
async def test_host_that_dawdles_is_left() -> None:
    network = Beside(OK)
    network.hold.clear()
    config = RemoteMediaConfig(domains=("example.com",), timeout_s=0.2)
    with pytest.raises(BadMedia, match=r"within 0\.2 s"):
        await fetch("https://example.com/a.png", network, config)
    network.hold.set()


@bounded
async def test_file_over_the_limit_is_refused_while_it_comes() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000
    network = Beside(endless)
    small = Config(ServerConfig(HERE), media=MediaConfig(max_file_bytes=50_000))
    config = HttpConfig(listen=HERE, media=ALLOWED)
    async with network.serving(), http_stack(config, network=network, gateway=small) as stack:
        reply = await stack.post(CHAT, chat(text("look"), image("https://example.com/a.png")))
    assert (reply.status, reply.error["param"]) == (400, "messages[0].content[1].image_url")
    assert "50000 bytes" in reply.error["message"]


def test_flags_name_hosts() -> None:
    def parse(*flags: str) -> Any:
        parser = configargparse.ArgParser()
        add_http_flags(parser)
        return HttpConfig.from_args(parser.parse_args(flags))

    assert parse().media.domains == ()
    assert parse("--media-domain", "A.com", "--media-domain", "*.b.org").media.domains == ("a.com", "*.b.org")
    for bad in ("https://a.com", "a.com:443", "*.", "a.com/b"):
        with pytest.raises(ConfigError, match="--media-domain"):
            parse("--media-domain", bad)
