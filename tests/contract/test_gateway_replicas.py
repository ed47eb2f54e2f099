"""Which replica a turn goes to, as replicas come and go."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from gateway.config import Config
from tests.contract.fake_llm import FakeLlm
from tests.contract.fake_vision import FakeVision, picture
from tests.contract.gateway_fleet import (
    QUICK,
    Fleet,
    gateway,
    gateway_fleet,
    served_llm,
    served_vision,
    targets,
)
from tests.contract.gateway_tiers import bounded, chat_request


@bounded
async def test_replicas_come_and_go_without_a_restart() -> None:
    async with AsyncExitStack() as stack:
        first, second = FakeLlm(), FakeLlm()
        running = await stack.enter_async_context(served_llm(first))
        vision = await stack.enter_async_context(served_vision(FakeVision()))
        with_hole = await stack.enter_async_context(served_llm(second))
        await with_hole.server.stop(0)
        config = Config(QUICK, llm=targets([running, with_hole]), vision=targets([vision]))
        chat = await stack.enter_async_context(gateway(config))

        async def ask(text: str) -> str:
            return "".join([event.delta.text async for event in chat.Chat(chat_request(text))])

        assert await ask("only the first is there") == "only the first is there"
        await stack.enter_async_context(served_llm(second, with_hole.port))
        number = 0
        while not second.opened:
            assert await ask(f"question {number}") == f"question {number}"
            number += 1
        await running.set_ready(False)
        await asyncio.wait_for(quiet(first, ask), 10)
        assert await ask("the first drains") == "the first drains"


async def quiet(llm: FakeLlm, ask: Any) -> None:
    """Ask until a replica that drains gets nothing of 20 different questions."""
    while True:
        before = len(llm.opened)
        for number in range(20):
            await ask(f"and {number}")
        if len(llm.opened) == before:
            return


@bounded
async def test_a_conversation_stays_with_its_replica_and_others_spread() -> None:
    async with gateway_fleet(llms=3, visions=2) as fleet:
        for number in range(12):
            for question in ("first", "second"):
                await fleet.events(picture(1, f"p{number}"), question)
        homes = [{id(llm) for llm in fleet.llms if name in str(llm.opened)} for name in names(fleet)]
        assert all(len(home) == 1 for home in homes)
        assert all(llm.opened for llm in fleet.llms)
        assert all(vision.encoded for vision in fleet.visions)
        assert sum(len(vision.encoded) for vision in fleet.visions) == 12


def names(fleet: Fleet) -> list[str]:
    """Visual ids that were asked about."""
    return sorted({name for llm in fleet.llms for name in llm.cached})
