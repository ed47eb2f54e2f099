"""Clients of every kind: good ones, impatient ones, and those that do not keep to the contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

import grpc
import numpy as np

from internvl.rpc import open_channel
from internvl.tensors import BFLOAT16
from internvl.v1 import llm_service_pb2, llm_service_pb2_grpc
from tests.contract.llm_client import Service, opening, tile, user, visual
from tests.soak.conversation import Conversation, Ending, Messages, turns
from tests.soak.watch import EngineWatch
from tests.unit.event_loop import until


@dataclass(frozen=True, slots=True)
class Scene:
    """Where clients act: a service, and who looks into its engine."""

    service: Service
    watch: EngineWatch

    @property
    def stub(self) -> llm_service_pb2_grpc.LlmServiceAsyncStub:
        return self.service.stub


Client: TypeAlias = Callable[[Scene, Random], Awaitable[Ending]]

WORDS = ("shape", "circle", "How many", "red", "Where is it", "left of")
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]  # takes little on trust
LONG = 40  # words; some hundred tokens


def question(chance: Random, *parts: Any, words: int = 0, **sampling: Any) -> llm_service_pb2.GenerateOpen:
    """A random question about some parts."""
    text = " ".join(chance.choices(WORDS, k=words or chance.randint(1, 8)))
    if chance.random() < 0.5:
        sampling = {"temperature": 1.0, "seed": chance.getrandbits(64), "top_p": 0.9} | sampling
    asked = opening(user(*parts, text), **{"max_tokens": chance.randint(1, 10)} | sampling)
    asked.priority = chance.randint(-3, 3)
    if chance.random() < 0.3:
        asked.cache_salt = chance.choice(("one", "two"))
    return asked


def picture(chance: Random) -> Any:
    number = chance.randint(0, 30)
    return visual(f"picture {number}", columns=1 + number % 3)


async def whole(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, question(chance))
    await conversation.admitted()
    return await conversation.rest()


async def with_pictures(scene: Scene, chance: Random) -> Ending:
    parts = [picture(chance) for _ in range(chance.randint(1, 2))]
    conversation = Conversation(scene.stub, question(chance, *parts))
    if admitted := await conversation.admitted():
        await conversation.send_tiles(admitted)
        await conversation.half_close()
    return await conversation.rest()


async def several(scene: Scene, chance: Random) -> Ending:
    n = chance.randint(2, 4)
    conversation = Conversation(scene.stub, question(chance, picture(chance), n=n))
    if admitted := await conversation.admitted():
        await conversation.send_tiles(admitted)
    ending = await conversation.rest()
    assert not ending.results or set(conversation.tokens) == set(range(n))
    return ending


async def several_cancelled(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, question(chance, n=4, max_tokens=30, min_tokens=30))
    await conversation.admitted()
    await conversation.read_tokens(chance.randint(0, 10))
    return await conversation.cancel()


async def resumed(scene: Scene, chance: Random) -> Ending:
    asked = question(chance, seed=1, max_tokens=12)
    asked.delivered_token_ids.extend(chance.randint(300, 600) for _ in range(chance.randint(1, 12)))
    conversation = Conversation(scene.stub, asked)
    await conversation.admitted()
    return await conversation.rest()


async def in_form(scene: Scene, chance: Random) -> Ending:
    asked = question(chance, max_tokens=20)
    asked.sampling.grammar.regex = chance.choice(("(yes|no)", "[0-9]{1,3} (red|blue) things"))
    conversation = Conversation(scene.stub, asked)
    await conversation.admitted()
    return await conversation.rest()


async def refused(scene: Scene, chance: Random) -> Ending:
    wrong = [{"temperature": 9.0}, {"stop": [""]}, {"stop_token_ids": [10**6]}, {"n": 99}]
    conversation = Conversation(scene.stub, question(chance, **chance.choice(wrong)))
    assert await conversation.admitted() is None
    return await conversation.rest()


async def never_fitting(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, question(chance, n=16))  # more than there are places
    assert await conversation.admitted() is None
    return await conversation.rest()


async def wrong_tile(scene: Scene, chance: Random) -> Ending:
    shown = picture(chance)
    name = shown.visual.visual_id
    wrong = [
        tile(name, 7),
        tile("another", 0),
        tile(name, 0, np.zeros((4, 8), BFLOAT16)),
        tile(name, 0, np.full((4, 32), np.nan, BFLOAT16)),
    ]
    asked = question(chance, shown)
    asked.cache_salt = f"{chance.random()}"  # so that tiles are needed
    conversation = Conversation(scene.stub, asked)
    if await conversation.admitted():
        await conversation.send(chance.choice(wrong))
    ending = await conversation.rest()
    assert not ending.results
    return ending


async def tile_too_many(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, question(chance, max_tokens=60, min_tokens=60))
    if await conversation.admitted():
        await conversation.send(tile("unasked", 0))
    return await conversation.rest()


async def opening_twice(scene: Scene, chance: Random) -> Ending:
    asked = question(chance, max_tokens=60, min_tokens=60)
    conversation = Conversation(scene.stub, asked)
    await conversation.admitted()
    await conversation.write(Messages(open=asked))
    return await conversation.rest()


async def closing_early(scene: Scene, chance: Random) -> Ending:
    shown = visual("wide", columns=3)
    asked = question(chance, shown)
    asked.cache_salt = f"{chance.random()}"
    conversation = Conversation(scene.stub, asked)
    if admitted := await conversation.admitted():
        await conversation.send_tiles(admitted, most=chance.randint(0, 2))
    await conversation.half_close()
    ending = await conversation.rest()
    assert not ending.results
    return ending


async def closing_unopened(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, None)
    await conversation.half_close()
    return await conversation.rest()


async def cancelled_unopened(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, None)
    await turns(chance.randint(0, 5))
    return await conversation.cancel()


async def cancelled_while_opening(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, question(chance))
    await conversation.open()
    await turns(chance.randint(0, 60))  # at the last it may have been queued or admitted
    return await conversation.cancel()


async def cancelled_waiting_for_tiles(scene: Scene, chance: Random) -> Ending:
    asked = question(chance, visual("wide", columns=3))
    asked.cache_salt = asked.request_id = f"waiting-{chance.getrandbits(64)}"
    conversation = Conversation(scene.stub, asked)
    if admitted := await conversation.admitted():
        await conversation.send_tiles(admitted, most=chance.randint(0, 2))
        await until(lambda: scene.watch.is_stalled(asked.request_id) or asked.request_id in scene.watch.ended)
    return await conversation.cancel()


async def cancelled_in_prefill(scene: Scene, chance: Random) -> Ending:
    asked = question(chance, words=LONG)
    asked.cache_salt = f"{chance.random()}"
    conversation = Conversation(scene.stub, asked)
    await conversation.admitted()
    await turns(chance.randint(0, 20))
    return await conversation.cancel()


async def cancelled_in_decode(scene: Scene, chance: Random) -> Ending:
    conversation = Conversation(scene.stub, question(chance, max_tokens=60, min_tokens=60))
    await conversation.admitted()
    await conversation.read_tokens(chance.randint(1, 30))
    return await conversation.cancel()


async def cancelled_before_the_result(scene: Scene, chance: Random) -> Ending:
    """All tokens are read; the result is there or on its way."""
    tokens = chance.randint(1, 8)
    asked = question(chance, max_tokens=tokens, min_tokens=tokens)
    conversation = Conversation(scene.stub, asked)
    await conversation.admitted()
    await conversation.read_tokens(tokens)
    return await conversation.cancel()


async def out_of_time(scene: Scene, chance: Random) -> Ending:
    timeout = chance.choice((0.0005, 0.005, 0.02, 0.05, 0.2))
    asked = question(chance, picture(chance), max_tokens=60, min_tokens=60)
    conversation = Conversation(scene.stub, asked, timeout)
    if admitted := await conversation.admitted():
        await conversation.send_tiles(admitted)
    return await conversation.rest()


async def out_of_tiles(scene: Scene, chance: Random) -> Ending:
    asked = question(chance, visual("wide", columns=3))
    asked.cache_salt = f"{chance.random()}"
    conversation = Conversation(scene.stub, asked)
    if admitted := await conversation.admitted():
        await conversation.send_tiles(admitted, most=1)
    ending = await conversation.rest()
    assert not ending.results
    return ending


async def not_reading(scene: Scene, chance: Random) -> Ending:
    """A long answer that nobody reads before the server has had enough."""
    asked = question(chance, n=4, max_tokens=150, min_tokens=150, logprobs=20, temperature=2.0)
    asked.request_id = f"not-reading-{chance.getrandbits(64)}"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.service.port}", SMALL_WINDOW) as channel:
        conversation = Conversation(llm_service_pb2_grpc.LlmServiceStub(channel), asked)
        await conversation.open()
        await until(lambda: conversation.has_status or asked.request_id in scene.watch.ended)
        return await conversation.rest()


async def hanging_up(scene: Scene, chance: Random) -> Ending:
    """The connection goes, with calls of all ages on it."""
    async with open_channel(f"127.0.0.1:{scene.service.port}") as channel:
        stub = llm_service_pb2_grpc.LlmServiceStub(channel)
        calls = [Conversation(stub, question(chance, max_tokens=60, min_tokens=60)) for _ in range(3)]
        for age, call in enumerate(calls):
            await call.open()
            await call.read_tokens(age)
    return await calls[0].ending()


WEIGHTS: dict[Client, int] = {
    whole: 16,
    with_pictures: 16,
    several: 6,
    several_cancelled: 4,
    resumed: 4,
    in_form: 3,
    refused: 3,
    never_fitting: 2,
    wrong_tile: 5,
    tile_too_many: 2,
    opening_twice: 2,
    closing_early: 4,
    closing_unopened: 2,
    cancelled_unopened: 2,
    cancelled_while_opening: 8,
    cancelled_waiting_for_tiles: 6,
    cancelled_in_prefill: 6,
    cancelled_in_decode: 6,
    cancelled_before_the_result: 4,
    out_of_time: 6,
    out_of_tiles: 1,
    not_reading: 1,
    hanging_up: 2,
}
