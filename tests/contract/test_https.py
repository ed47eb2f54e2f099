"""Encryption with real certificates: of the HTTP door, and of connections to hosts that serve pictures."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from pathlib import Path

import httpx
import pytest

from gateway.http.remote_media import Internet
from internvl.rpc import TlsConfig
from tests.contract.certificates import HOST, write_certificate
from tests.contract.gateway_tiers import bounded
from tests.contract.http_door import CHAT, chat, http_stack

HERE = ipaddress.IPv4Address("127.0.0.1")


@pytest.fixture
def certificate(tmp_path: Path) -> TlsConfig:
    files = TlsConfig(tmp_path / "cert.pem", tmp_path / "key.pem")
    write_certificate(files.cert, files.key)
    return files


@bounded
async def test_http_door_is_encrypted_and_trusted_by_its_certificate_only(certificate: TlsConfig) -> None:
    async with http_stack(tls=certificate) as stack:
        url = f"https://127.0.0.1:{stack.port}{CHAT}"
        trusting = ssl.create_default_context(cafile=certificate.cert)
        async with httpx.AsyncClient(verify=trusting) as caller:
            answer = await caller.post(url, json=chat("one two"))
        assert answer.json()["choices"][0]["message"]["content"] == "one two"
        async with httpx.AsyncClient() as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.post(url, json=chat("one two"))
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.RemoteProtocolError):
                await plain.post(url.replace("https", "http"), json=chat("one two"))


@bounded
async def test_hosts_of_pictures_must_show_their_own_certificate(
    certificate: TlsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate.cert, certificate.key)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, str(HERE), 0, ssl=serving) as server:
        internet = Internet(server.sockets[0].getsockname()[1])
        with pytest.raises(ssl.SSLCertVerificationError):
            await internet.connect(HERE, HOST)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
        reader, writer = await internet.connect(HERE, HOST)
        assert await reader.read() == b"hello"
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await internet.connect(HERE, "other.example.com")
