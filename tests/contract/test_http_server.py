"""The HTTP door around its API: keys, health, pages of other origins, connections that dawdle."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from gateway.access.access import AccessConfig
from gateway.http.config import HttpConfig
from tests.contract.gateway_tiers import bounded, until
from tests.contract.http_door import HERE, chat, http_stack


def keys(path: Path, **allowance: int) -> AccessConfig:
    """One key, `secret`."""
    bounds = "".join(f"{name} = {number}\n" for name, number in allowance.items())
    hashed = hashlib.sha256(b"secret").hexdigest()
    path.write_text(f'[[keys]]\nname = "ci"\ntenant = "team"\nsha256 = "{hashed}"\n{bounds}')
    return AccessConfig(api_keys=str(path))


@bounded
async def test_every_route_but_health_needs_a_key(tmp_path: Path) -> None:
    async with http_stack(access=keys(tmp_path / "keys.toml")) as stack:
        for path in ("/v1/models", "/v1/models/parrot", "/metrics"):
            refused = await stack.get(path)
            assert (refused.status, refused.error["type"]) == (401, "authentication_error")
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert (await stack.get(path, authorization="Bearer wrong")).status == 401
            assert (await stack.get(path, authorization="Basic secret")).status == 401
            assert (await stack.get(path, authorization="Bearer secret")).status == 200
        assert (await stack.post("/v1/chat/completions", chat("hi"))).status == 401
        assert (await stack.post("/v1/chat/completions", b"not json")).status == 401
        for path in ("/", "/health", "/ready"):
            assert (await stack.get(path)).status == 200


@bounded
async def test_key_over_its_allowance_is_told_when_to_come_back(tmp_path: Path) -> None:
    access = keys(tmp_path / "keys.toml", requests_per_minute=2, concurrency=1)
    held = {"authorization": "Bearer secret"}
    async with http_stack(access=access) as stack:
        stack.tiers.llm.gate.clear()
        asking = asyncio.create_task(stack.post("/v1/chat/completions", chat("hi", stream=True), **held))
        await until(lambda: stack.tiers.llm.active)
        at_once = await stack.get("/v1/models", **held)
        stack.tiers.llm.gate.set()
        assert (await asking).status == 200
        replies = [await stack.get("/v1/models", **held) for _ in range(3)]
    for refused in (at_once, replies[-1]):
        assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1


@bounded
async def test_metrics_count_requests() -> None:
    async with http_stack() as stack:
        await stack.get("/health")
        reply = await stack.get("/metrics")
    assert b'internvl_http_requests_total{route="/health",status="200"}' in reply.body


@bounded
async def test_draining_server_says_so() -> None:
    async with http_stack() as stack:
        stack.app.ready = False
        assert (await stack.get("/ready")).status == 503
        assert (await stack.get("/health")).status == 200


@bounded
async def test_path_or_method_that_is_not_there() -> None:
    async with http_stack() as stack:
        missing = await stack.get("/v1/engines")
        wrong = await stack.get("/v1/chat/completions")
    assert (missing.status, missing.error["code"]) == (404, "unknown_url")
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")


@bounded
async def test_welcome_tells_what_is_here() -> None:
    async with http_stack() as stack:
        assert b"/v1/chat/completions" in (await stack.get("/")).body


@bounded
async def test_pages_of_other_origins_are_let_in_only_by_name() -> None:
    page = {"origin": "https://example.com"}
    async with http_stack() as stack:
        assert "access-control-allow-origin" not in (await stack.get("/v1/models", **page)).headers
    async with http_stack(HttpConfig(listen=HERE, cors_origins=("https://example.com",))) as stack:
        reply = await stack.get("/v1/models", **page)
        other = await stack.get("/v1/models", origin="https://example.org")
    assert reply.headers["access-control-allow-origin"] == "https://example.com"
    assert "access-control-allow-origin" not in other.headers


@bounded
@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nx-slow: "])
async def test_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    async with http_stack(HttpConfig(listen=HERE, header_timeout_s=0.2)) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


@bounded
async def test_connection_that_asked_before_is_closed_too() -> None:
    async with http_stack(HttpConfig(listen=HERE, header_timeout_s=0.2)) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: t\r\n\r\nGET /hea")
        received = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert received.startswith(b"HTTP/1.1 200")


@bounded
async def test_head_over_the_limit_is_refused() -> None:
    async with http_stack() as stack:
        reply = await stack.send(b"GET /health HTTP/1.1\r\nx-long: " + b"x" * 100_000 + b"\r\n\r\n")
    assert reply.status == 400
