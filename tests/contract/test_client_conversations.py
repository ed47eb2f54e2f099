"""Conversations, keys and certificates through the client library: both clients, the same behaviour."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.access.access import AccessConfig
from gateway.config import Config
from internvl.rpc import ServerConfig, TlsConfig
from internvl_client import AsyncClient, Client, Conflict, NotFound, Unauthenticated, Unavailable
from tests.contract.certificates import write_certificate
from tests.contract.gateway_tiers import Stack, bounded, gateway_stack

QUICK = ServerConfig("127.0.0.1:0")


def in_thread(work: Callable[[Stack, Client], None], config: Config | None = None, **options: object) -> None:
    """Run a blocking test against a stack."""

    @bounded
    async def run() -> None:
        async with gateway_stack(config) as stack:

            def call() -> None:
                with Client(stack.address, **options) as client:  # type: ignore[arg-type]
                    work(stack, client)

            await asyncio.to_thread(call)

    run()


def test_conversations_are_listed_renamed_and_expire() -> None:
    def work(stack: Stack, client: Client) -> None:
        first = client.conversation(title="shapes", time_to_live_s=60.0)
        first.say("one").result()
        for number in range(60):
            client.conversation(title=str(number)).info()
        assert first.rename("circles").title == "circles"
        listed = list(client.conversations())
        assert [info.title for info in listed] == ["circles", *map(str, reversed(range(60)))]
        assert listed[0].conversation_id == first.conversation_id
        assert listed[0].version == 1
        assert listed[0].expires == listed[0].updated + datetime.timedelta(minutes=1)
        assert listed[1].expires is None
        info = first.expire_after(3600)
        assert info.expires == info.updated + datetime.timedelta(hours=1)

    in_thread(work)


def test_fork_leaves_the_first_one_as_it_is() -> None:
    def work(stack: Stack, client: Client) -> None:
        conversation = client.conversation(system="be brief")
        for question in ("one", "two"):
            conversation.say(question).result()
        fork = conversation.fork(1, title="other way")
        assert fork.say("three").result().conversation_version == 2
        assert [message.parts for message in fork.messages()] == [
            ("be brief",),
            ("one",),
            ("one",),
            ("three",),
            ("three",),
        ]
        assert [(turn.version, turn.messages, turn.outcome) for turn in conversation.turns()] == [
            (1, 2, "stop"),
            (2, 2, "stop"),
        ]
        assert fork.info().title == "other way"

    in_thread(work)


def test_repeated_key_is_generated_once_and_a_stale_version_not_at_all() -> None:
    def work(stack: Stack, client: Client) -> None:
        conversation = client.conversation()
        answers = [conversation.say("one two", idempotency_key="k").result().text for _ in range(2)]
        assert answers == ["one two"] * 2
        with pytest.raises(Conflict):
            conversation.say("three", expected_version=0).result()
        assert conversation.say("three", expected_version=1).result().conversation_version == 2
        assert len(stack.llm.opened) == 2
        (keyed, plain) = conversation.turns()
        assert (keyed.idempotency_key, plain.idempotency_key) == ("k", None)

    in_thread(work)


@bounded
async def test_async_conversations_do_the_same() -> None:
    async with gateway_stack() as stack, AsyncClient(stack.address) as client:
        conversation = client.conversation(title="shapes")
        await conversation.say("one", idempotency_key="k").result()
        await conversation.say("one", idempotency_key="k").result()
        assert len(stack.llm.opened) == 1
        fork = await conversation.fork(0)
        assert (await fork.rename("empty")).version == 0
        assert [info.title async for info in client.conversations()] == ["empty", "shapes"]
        assert [turn.idempotency_key for turn in await conversation.turns()] == ["k"]
        assert (await conversation.expire_after(60)).expires is not None
        await fork.delete()
        assert [info.title async for info in client.conversations()] == ["shapes"]


def keyed(tmp_path: Path) -> Config:
    file = tmp_path / "keys.toml"
    file.write_text(
        "\n".join(
            f'[[keys]]\nname = "{name}"\ntenant = "{name}"\n'
            f'sha256 = "{hashlib.sha256(f"{name}-key".encode()).hexdigest()}"'
            for name in ("ann", "bob")
        )
    )
    return Config(QUICK, access=AccessConfig(str(file)))


def test_key_is_shown_with_every_call(tmp_path: Path) -> None:
    def work(stack: Stack, client: Client) -> None:
        conversation = client.conversation()
        conversation.say("hi", images=[b"2 picture"]).result()
        client.upload(b"1 picture")
        client.plan("hi")
        client.info()
        assert len(list(client.conversations())) == 1
        with Client(stack.address, api_key="bob-key") as bob:
            assert not list(bob.conversations())
            with pytest.raises(NotFound):
                bob.conversation(conversation_id=conversation.conversation_id).info()
        for key in (None, "eve-key"):
            with Client(stack.address, api_key=key) as eve, pytest.raises(Unauthenticated):
                eve.chat("hi").result()

    in_thread(work, keyed(tmp_path), api_key="ann-key")


def test_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_API_KEY", "ann-key\n")

    @bounded
    async def work() -> None:
        async with gateway_stack(keyed(tmp_path)) as stack, AsyncClient(stack.address) as client:
            assert (await client.chat("hi").result()).text == "hi"
            media = await client.upload(b"1 picture")
            assert len((await client.plan("hi", images=[media])).layouts) == 1

    work()


def test_key_that_no_header_can_hold_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        Client("127.0.0.1:9", api_key="k\u00e9y\n")
    assert "k\u00e9y" not in str(caught.value)


def test_encrypted_server_is_trusted_by_its_certificate_only(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key)
    config = Config(ServerConfig("127.0.0.1:0", tls=TlsConfig(cert, key)))

    @bounded
    async def work() -> None:
        async with gateway_stack(config) as stack:
            async with AsyncClient(stack.address, tls=cert) as client:
                assert (await client.chat("hi").result()).text == "hi"
            for tls in (False, True):
                async with AsyncClient(stack.address, tls=tls, timeout=10) as client:
                    with pytest.raises(Unavailable):
                        await client.info()

    work()
