"""The HTTP door over the stand-ins of `gateway_tiers`, on a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import openai

from gateway.access.access import Access, AccessConfig
from gateway.config import Config
from gateway.http.app import HttpApp
from gateway.http.config import HttpConfig
from gateway.http.remote_media import Network
from gateway.http.server import serving_http
from gateway.wire import RequestLimits
from internvl.rpc import TlsConfig
from tests.contract.gateway_tiers import Stack, gateway_stack

MODEL = "parrot"
CHAT = "/v1/chat/completions"
HERE = "127.0.0.1:0"


@dataclass
class HttpStack:
    """A gateway over both stand-ins, with its HTTP door open.

    Attributes:
        tiers: the stand-ins.
        port: where HTTP is served.
        app: the application.
    """

    tiers: Stack
    port: int
    app: HttpApp

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.send(f"GET {path} HTTP/1.1\r\n{_lines(headers)}\r\n".encode())

    async def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Post JSON; bytes go as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        return await self.send(f"POST {path} HTTP/1.1\r\n{_lines(given)}\r\n".encode() + data)

    async def send(self, request: bytes) -> Reply:
        """Send bytes and read one answer, to the end of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().splitlines()
            pairs = (line.partition(": ") for line in lines if line)
            headers = {name.lower(): value for name, _, value in pairs}
            return Reply(int(first.split()[1]), headers, await reader.read())
        finally:
            writer.close()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        return json.loads(self.body)["error"]


def chat(*content: Any, **fields: Any) -> dict[str, Any]:
    """A chat completion request of one user message."""
    shown = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    return {"model": MODEL, "messages": [{"role": "user", "content": shown}], **fields}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **options}}


@asynccontextmanager
async def http_stack(
    config: HttpConfig | None = None,
    *,
    network: Network | None = None,
    access: AccessConfig | None = None,
    gateway: Config | None = None,
    tls: TlsConfig | None = None,
) -> AsyncIterator[HttpStack]:
    """Serve the stand-ins and a gateway with both doors on free ports."""
    config = config or HttpConfig(listen=HERE)
    async with gateway_stack(gateway) as tiers:
        assert tiers.core is not None
        app = HttpApp(
            replace(tiers.core, access=Access(access or AccessConfig())),
            RequestLimits(),
            config,
            network=network,
        )
        async with serving_http(app, config, 0.0, tls) as door:
            yield HttpStack(tiers, door.port, app)


def _lines(headers: Mapping[str, str]) -> str:
    given = {
        "host": "test",
        "connection": "close",
        **{name.replace("_", "-"): headers[name] for name in headers},
    }
    return "".join(f"{name}: {value}\r\n" for name, value in given.items())


def data_url(data: bytes, kind: str = "image/png") -> str:
    """A file as a URL that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def client(stack: HttpStack, **options: Any) -> openai.AsyncOpenAI:
    """OpenAI's own client, which tries once unless told otherwise."""
    return openai.AsyncOpenAI(base_url=stack.base_url, api_key="none", **{"max_retries": 0, **options})
