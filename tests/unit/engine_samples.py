"""Requests for the engine, and a model whose every answer follows from exactly what it was given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from llm_service.engine.engine import Engine
from llm_service.engine.events import Delta, Event, Failed, Finished
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot
from llm_service.engine.step import BlockCopy
from llm_service.model.batch import Chunk
from llm_service.model.rope import RopeRegime
from llm_service.runner import BatchRunner

VOCAB = 50
STOP = 0
CONTEXT = 49  # stands at visual positions
TILE = 4
WIDTH = 2
ROPE_LIMIT = 40
BLOCK = 4


def request(
    text: Sequence[int] = (1, 2, 3),
    tiles: Sequence[TileKey] = (),
    *,
    deadline: float | None = None,
    priority: int = 0,
    delivered: Sequence[int] = (),
    scope: str = "",
    **sampling: Any,
) -> Request:
    """The text's first token, the tiles, and the rest of the text."""
    ids = [*text[:1], *[CONTEXT] * (TILE * len(tiles)), *text[1:]]
    slots = tuple(VisualSlot(1 + TILE * number, TILE, tile) for number, tile in enumerate(tiles))
    params = SamplingParams(**{"max_tokens": 8, "stop_ids": frozenset({STOP}), **sampling})
    return Request(
        request_id="r",
        prompt_ids=np.array(ids, np.int64),
        sampling=params,
        slots=slots,
        deadline=deadline,
        priority=priority,
        delivered_ids=tuple(delivered),
        cache_scope=scope,
    )


def tile_keys(visual_id: str, count: int) -> list[TileKey]:
    return [TileKey(visual_id, number) for number in range(count)]


def embeddings(tile: TileKey) -> NDArray[np.float32]:
    """Different for every tile and row."""
    seed = int.from_bytes(hashlib.sha256(repr(tuple(tile)).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal((TILE, WIDTH), np.float32)


def limits(**changes: Any) -> EngineLimits:
    small = {
        "context_limit": 200,
        "kv_blocks": 250,
        "kv_block_size": BLOCK,
        "max_running": 4,
        "step_token_budget": 16,
    }
    return EngineLimits(**small | changes)


class EchoModel:
    """Its next token is a hash of all that its cache holds: ids, embeddings and rope regime, by position.

    Any mix-up of blocks, positions, pictures or regimes changes it. Blocks start out full of garbage.
    """

    def __init__(self) -> None:
        self.fail_on: int | None = None
        self.steps: list[list[int]] = []
        self._slots: dict[tuple[int, int], bytes] = {}

    def copy_blocks(self, copies: Iterable[BlockCopy]) -> None:
        for source, target in copies:
            for slot in range(BLOCK):
                self._slots[target, slot] = self._slots.get((source, slot), b"garbage")

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        self.steps.append([chunk.length for chunk in chunks])
        if any(self.fail_on in chunk.token_ids for chunk in chunks):
            raise RuntimeError("out of memory")
        for chunk in chunks:  # all write before any reads, as in a layer of the real one
            self._write(chunk)
        return [self._read(chunk) for chunk in chunks]

    def _write(self, chunk: Chunk) -> None:
        new = [f"{token_id} {chunk.regime}".encode() for token_id in chunk.token_ids]
        for span in chunk.visual:
            for row, values in enumerate(span.embeddings):
                new[span.offset + row] = values.tobytes() + chunk.regime.name.encode()
        for position, value in enumerate(new, chunk.start):
            self._slots[chunk.blocks[position // BLOCK], position % BLOCK] = value

    def _read(self, chunk: Chunk) -> NDArray[np.float32]:
        end = chunk.start + chunk.length
        seen = [
            self._slots.get((chunk.blocks[position // BLOCK], position % BLOCK), b"garbage")
            for position in range(end)
        ]
        rows = [logits_after(seen[: end - back]) for back in reversed(range(chunk.wanted))]
        return np.stack(rows) if rows else np.empty((0, VOCAB), np.float32)


def logits_after(seen: Sequence[bytes]) -> NDArray[np.float32]:
    digest = hashlib.shake_256(b"|".join(seen)).digest(2 * VOCAB)
    return np.frombuffer(digest, np.uint16).astype(np.float32) / 2**14


def regime_of(length: int) -> RopeRegime:
    return RopeRegime.LONG if length > ROPE_LIMIT else RopeRegime.SHORT


class SpelledAnswer:
    """Text is the ids, spelled out; stop texts are searched for in all of it."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._text = ""
        self._tokens = 0
        self.stopped = False
        self.stop_match: str | None = None

    def push(self, token_id: int) -> str:
        self._tokens += 1
        if token_id in self._params.stop_ids:
            self.stopped = True
            return ""
        text = f"{token_id} "
        self._text += text
        for stop in self._params.stop_texts:
            if stop in self._text and self._tokens > self._params.min_tokens:
                self.stopped, self.stop_match = True, stop
        return text

    def flush(self) -> str:
        return "."


class Bench:
    """An engine on the echo model, a clock that stands still, and all that was published."""

    def __init__(self, **changes: Any) -> None:
        self.now = 0.0
        self.model = EchoModel()
        self.events: list[tuple[Request, Event]] = []
        self.engine = Engine(
            BatchRunner(self.model),
            limits(**changes),
            regime_of,
            SpelledAnswer,
            lambda request, event: self.events.append((request, event)),
            lambda: self.now,
        )

    def of(self, wanted: Request) -> list[Event]:
        return [event for request, event in self.events if request is wanted]

    def tokens(self, wanted: Request, choice: int = 0) -> list[int]:
        return [
            token
            for event in self.of(wanted)
            if isinstance(event, Delta) and event.choice == choice
            for token in event.token_ids
        ]

    def end(self, wanted: Request) -> Finished | Failed | None:
        """How it ended, or None; an event after the end is an error."""
        ends = [event for event in self.of(wanted) if isinstance(event, Finished | Failed)]
        assert len(ends) <= 1
        assert not ends or self.of(wanted)[-1] is ends[0]
        return ends[0] if ends else None

    def send_all_tiles(self, wanted: Request) -> None:
        for tile in dict.fromkeys(slot.tile for slot in wanted.slots):
            self.engine.receive_tile(wanted, tile, embeddings(tile))

    def run(self, most_steps: int = 800) -> None:
        """Step until there is nothing to compute."""
        for _ in range(most_steps):
            if not self.engine.has_work:
                return
            self.engine.step()
        raise AssertionError("the engine never comes to rest")

    def run_alone(self, wanted: Request) -> list[int]:
        self.engine.submit(wanted)
        self.send_all_tiles(wanted)
        self.run()
        return self.tokens(wanted)

    @property
    def blocks_held(self) -> int:
        return self.engine._scheduler.blocks.used


def metric(name: str, **labels: str) -> float:
    """What the engine of this process exports, as it was when it last had an answer to tell of."""
    return REGISTRY.get_sample_value(f"internvl_llm_{name}", labels) or 0.0


def is_empty() -> bool:
    """Whether no request waits, runs or holds memory, by the metrics."""
    return not any(map(metric, ("requests_waiting", "requests_running", "kv_tokens")))


def expected_tokens(wanted: Request) -> list[int]:
    """Greedy, from what the echo model is: all is seen under the rope regime of the whole length."""
    generated: list[int] = list(wanted.delivered_ids)
    stop_ids = wanted.sampling.stop_ids
    while len(generated) < wanted.sampling.max_tokens and not stop_ids.intersection(generated):
        regime = regime_of(len(wanted.prompt_ids) + len(generated))
        seen = [f"{token_id} {regime}".encode() for token_id in [*wanted.prompt_ids, *generated]]
        for slot in wanted.slots:
            for row, values in enumerate(embeddings(slot.tile)):
                seen[slot.offset + row] = values.tobytes() + regime.name.encode()
        generated.append(int(logits_after(seen).argmax()))
    return generated[len(wanted.delivered_ids) :]
