"""A model of a few lines that reads and writes blocks, so that any mix-up of them changes its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

from llm_service.engine.blocks import BlockPool
from llm_service.engine.limits import EngineLimits
from llm_service.engine.pace import Pace
from llm_service.engine.request import Embeddings, Request, SamplingParams, TileKey, VisualSlot
from llm_service.engine.scheduler import Scheduler
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import Share, Step

BLOCK = 4
TILE = 6  # not a multiple of a block: borders cut tiles
VOCAB = 5  # small, so that prompts and answers often begin alike
CONTEXT = 99  # stands at visual positions
ROPE_LIMIT = 30


def limits(**changes: Any) -> EngineLimits:
    small = {
        "context_limit": 200,
        "kv_blocks": 100,
        "kv_block_size": BLOCK,
        "max_running": 4,
        "queue_limit": 8,
        "step_token_budget": 16,
    }
    return EngineLimits(**small | changes)


def request(
    text: Many[int] = (1, 2, 3),
    tiles: Many[TileKey] = (),
    *,
    priority: int = 0,
    deadline: float | None = None,
    delivered: Many[int] = (),
    scope: str = "",
    max_tokens: int = 8,
    n: int = 1,
) -> Request:
    """The text's first token, the tiles, and the rest of the text."""
    return Request(
        request_id="r",
        prompt_ids=np.array([*text[:1], *[CONTEXT] * (TILE * len(tiles)), *text[1:]], np.int64),
        sampling=SamplingParams(max_tokens=max_tokens, n=n),
        slots=tuple(VisualSlot(1 + TILE * number, TILE, tile) for number, tile in enumerate(tiles)),
        priority=priority,
        deadline=deadline,
        delivered_ids=tuple(delivered),
        cache_scope=scope,
    )


def text(length: int, token: int = 1) -> list[int]:
    return [token] * length


def tile_keys(visual_id: str, count: int) -> list[TileKey]:
    return [TileKey(visual_id, number) for number in range(count)]


def embeddings(tile: TileKey) -> Embeddings:
    """Different for every tile and row, [TILE, 1]."""
    digest = blake2b(repr(tuple(tile)).encode(), digest_size=4 * TILE).digest()
    return np.frombuffer(digest, np.uint32)[:, None].astype(np.float64)


def regime_of(length: int) -> str:
    return "long" if length > ROPE_LIMIT else "short"


def next_token(seen: Iterable[bytes], choice: int) -> int:
    digest = blake2b(b"|".join(seen) + bytes([choice]), digest_size=2).digest()
    return int.from_bytes(digest, "little") % VOCAB


def answer(wanted: Request, choice: int = 0) -> list[int]:
    """All tokens of an answer, computed without any cache; those delivered before are the first."""
    rows = {slot.offset + row: value for slot in wanted.slots for row, value in _rows(embeddings(slot.tile))}
    generated: list[int] = []
    while len(generated) < wanted.sampling.max_tokens:
        ids = [*wanted.prompt_ids.tolist(), *generated]
        regime = regime_of(len(ids))
        seen = [_value(rows.get(place, b"%d" % token), regime) for place, token in enumerate(ids)]
        generated.append(next_token(seen, choice))
    return generated


class BlockModel:
    """Computes steps on blocks of values. Refuses to write what others may read."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._values: dict[tuple[int, int], bytes] = {}

    def run(self, step: Step) -> list[list[int]]:
        """The tokens that the rows of each share give."""
        for source, target in step.copies:
            for row in range(BLOCK):
                self._values[target, row] = self._values.get((source, row), b"garbage")
        for share in step.shares:  # all write before any reads, as in a layer of a real one
            self._write(share)
        return [self._read(share) for share in step.shares]

    def _write(self, share: Share) -> None:
        sequence = share.sequence
        values = [b"%d" % token for token in [*sequence.token_ids(share.tokens).tolist(), *share.drafts]]
        for span in sequence.spans(share.tokens):
            for row, value in _rows(span.embeddings):
                values[span.offset + row] = value
        for position, value in enumerate(values, sequence.computed):
            block = sequence.blocks[position // BLOCK]
            assert self._pool.references(block) == 1, "wrote a block that others read"
            with pytest.raises(KeyError):  # else others may find it, and read it
                self._pool.tiles(block)
            self._values[block, position % BLOCK] = _value(value, str(sequence.regime))

    def _read(self, share: Share) -> list[int]:
        sequence = share.sequence
        end = sequence.computed + share.tokens + len(share.drafts)
        seen = [self._values[sequence.blocks[at // BLOCK], at % BLOCK] for at in range(end)]
        ends = range(end - share.wanted + 1, end + 1)
        return [next_token(seen[:last], sequence.choice) for last in ends]


class Bench:
    """A scheduler, the model, and a clock that stands still; it runs requests as the engine does."""

    def __init__(
        self, draft: Callable[[Sequence, int], tuple[int, ...]] = lambda sequence, most: (), **changes: Any
    ) -> None:
        self.now = 0.0
        self.limits = limits(**changes)
        self.pace = Pace()
        self.scheduler = Scheduler(self.limits, self.pace, regime_of)
        self.model = BlockModel(self.scheduler.blocks)
        self.draft = draft
        self.recomputes = 0
        self.answers: dict[tuple[Request, int], list[int]] = {}

    def submit(self, wanted: Request, *, with_tiles: bool = True) -> Sequence:
        sequence = Sequence(wanted)
        self.scheduler.submit(sequence, self.now)
        if with_tiles:
            send_tiles(sequence)
        self.admit()
        return sequence

    def admit(self) -> list[Sequence]:
        return self.scheduler.admit(self.now)

    def step(self) -> Step:
        """One turn of the engine; what was computed in it."""
        self.admit()
        step = self.scheduler.schedule(self.now, self.draft)
        for share, tokens in zip(step.shares, self.model.run(step), strict=True):
            for twin in self._fork(share):
                own = tokens if twin is share else self._again(twin)
                self._complete(twin, own)
        return step

    def run(self, most_steps: int = 2000) -> None:
        """Step until there is nothing to compute."""
        for _ in range(most_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("the scheduler never comes to rest")

    def run_alone(self, wanted: Request) -> list[int]:
        self.submit(wanted)
        self.run()
        return self.answers[wanted, 0]

    def _fork(self, share: Share) -> list[Share]:
        sequence = share.sequence
        shares = [share]
        if share.wanted:
            while sequence.places > 1:
                sibling = self.scheduler.fork(sequence, len(shares))
                shares.append(Share(sibling, share.tokens))
        return shares

    def _again(self, share: Share) -> list[int]:
        return self.model._read(share)

    def _complete(self, share: Share, tokens: list[int]) -> None:
        """Accept tokens up to the first that was not guessed, as the engine does."""
        hits = 0
        while hits < len(share.drafts) and share.drafts[hits] == tokens[hits]:
            hits += 1
        sequence = share.sequence
        self.recomputes += self.scheduler.complete(share, tokens[: hits + 1])
        if len(sequence.generated) >= sequence.request.sampling.max_tokens:
            self.answers[sequence.request, sequence.choice] = sequence.generated
            self.scheduler.remove(sequence)


def send_tiles(sequence: Sequence) -> None:
    for slot in sequence.request.slots:
        sequence.receive(slot.tile, embeddings(slot.tile))


def _rows(values: Embeddings) -> Iterable[tuple[int, bytes]]:
    return enumerate(row.tobytes() for row in values)


def _value(content: bytes, regime: str) -> bytes:
    return content + regime.encode()
