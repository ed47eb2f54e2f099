"""Questions that differ in nothing but the pixels of their pictures, and what a fresh service answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from internvl.tensors import BFLOAT16
from internvl.v1 import content_pb2, llm_service_pb2
from kernels.paged import KvDtype
from llm_service.kv_budget import KvBudget
from tests.contract.llm_client import SHAPE, Service, llm_service, opening, tile, user, visual

TILES = 2
BLOCK_BYTES = 2 * 2 * 4 * 2 * 8 * 4  # keys and values, layers, tokens, heads, channels, float32
NAMES = ("a", "ab", "abc", "b", "a/0", "a0", "a/1", "aa", "a" * 127, "a" * 128, "ä", "a ")
"""They begin alike, end alike, or look like a name and a number."""


@dataclass(frozen=True, slots=True)
class Question:
    """Pictures of two tiles each, with text around them.

    Attributes:
        salt: part of what its pictures look like too: another tenant's picture may have the same name.
    """

    pictures: tuple[str, ...]
    text: str = "What is this?"
    before: str = ""
    salt: str = ""
    tokens: int = 5
    priority: int = 0

    def opening(self) -> llm_service_pb2.GenerateOpen:
        parts = [self.before] if self.before else []
        asked = opening(
            user(*parts, *(visual(name, TILES) for name in self.pictures), self.text),
            max_tokens=self.tokens,
            min_tokens=self.tokens,
            logprobs=2,
        )
        asked.prompt.visuals_first = False
        asked.priority = self.priority
        if self.salt:
            asked.cache_salt = self.salt
        return asked

    def tiles(self, needed: Any) -> list[content_pb2.Tile]:
        """What `Admitted.needed` asks for."""
        return [
            tile(need.visual_id, index, pixels(need.visual_id, index, self.salt))
            for need in needed
            for index in range(need.first_tile, TILES)
        ]


class Reply(NamedTuple):
    """An answer to the last bit, and the prompt tokens that were found in the cache."""

    content: tuple[Any, ...]
    cached_tokens: int


def pixels(visual_id: str, index: int, salt: str) -> np.ndarray:
    """Random embeddings of a tile."""
    digest = hashlib.sha256(repr((visual_id, index, salt)).encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    return (2 * generator.standard_normal(SHAPE)).astype(BFLOAT16)


async def ask(service: Service, question: Question) -> Reply:
    stream = service.generate(question.opening())
    admitted = await stream.admitted()
    await stream.send(*question.tiles(admitted.needed))
    content: list[Any] = []
    while (message := await stream.read()).WhichOneof("message") == "delta":
        content += [(one.token_id, one.logprob, *_top(one)) for one in message.delta.logprobs]
    assert await stream.call.read() is grpc.aio.EOF
    assert len(content) == question.tokens
    return Reply(tuple(content), admitted.cached_tokens)


class FreshAnswers:
    """What services answer that never saw anything else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Question, tuple[Any, ...]] = {}

    async def know(self, questions: Iterable[Question]) -> None:
        """Ask beforehand, so that no two services compute at once."""
        for question in questions:
            await self.of(question)

    async def of(self, question: Question) -> tuple[Any, ...]:
        if question not in self._known:
            async with exact_service(self._folder) as service:
                self._known[question] = (await ask(service, question)).content
        return self._known[question]


def exact_service(folder: Path, blocks: int = 2000) -> AbstractAsyncContextManager[Service]:
    """A service whose answers are always the same to the last bit, with a cache in blocks of a tile each."""
    budget = KvBudget(amount=blocks * BLOCK_BYTES)
    return llm_service(
        folder, batch_invariant=True, kv_block_size=4, kv_budget=budget, kv_dtype=KvDtype.FLOAT32
    )


def _top(one: llm_service_pb2.TokenLogprob) -> list[tuple[int, float]]:
    return [(other.token_id, other.logprob) for other in one.top]
