"""The block pool against a model so simple that it is plainly right."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm_service.engine.blocks import BlockPool
from llm_service.engine.request import TileKey
from tests.unit.scheduler_samples import embeddings

TOTAL = 5
NAMES = [bytes([name]) for name in range(4)]


class Oracle(RuleBasedStateMachine):
    """A list of references held, and lists of who is registered and who was let go first."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(TOTAL)
        self.held: list[int] = []  # a block for each reference
        self.keys: dict[int, bytes] = {}  # of registered blocks
        self.cached: list[int] = []  # the one let go first is the first

    @rule()
    def allocate(self) -> None:
        in_use = set(self.held) | set(self.cached)
        if len(set(self.held)) == TOTAL:
            with pytest.raises(ValueError, match="referenced"):
                self.pool.allocate()
            return
        block = self.pool.allocate()
        if len(in_use) == TOTAL:
            assert block == self.cached.pop(0)  # the least recently used
            del self.keys[block]
        assert block not in in_use or len(in_use) == TOTAL
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.pool.share(block)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.pool.release(block)
        self.held.remove(block)
        if block not in self.held and block in self.keys:
            self.cached.append(block)

    @precondition(lambda self: set(self.held) - set(self.keys))
    @rule(data=st.data(), key=st.sampled_from(NAMES))
    def register(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from(sorted(set(self.held) - set(self.keys))))
        self.pool.register(block, key)
        if key not in self.keys.values():  # the first to register keeps the name
            self.keys[block] = key

    @rule(key=st.sampled_from(NAMES))
    def hit(self, key: bytes) -> None:
        block = self.pool.lookup(key)
        if key not in self.keys.values():
            assert block is None
            return
        assert block is not None
        assert self.keys[block] == key
        self.pool.share(block)
        self.held.append(block)
        if block in self.cached:
            self.cached.remove(block)

    @invariant()
    def accounts_are_true(self) -> None:
        pool = self.pool
        assert [pool.references(block) for block in range(TOTAL)] == [
            self.held.count(block) for block in range(TOTAL)
        ]
        assert pool.used == len(set(self.held))
        assert pool.cached == len(self.cached)
        assert pool.free + pool.cached + pool.used == pool.total == TOTAL
        assert pool.available == TOTAL - pool.used
        found = {block: key for key in NAMES if (block := pool.lookup(key)) is not None}
        assert found == self.keys


Oracle.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_pool_agrees_with_the_oracle = Oracle.TestCase


def test_what_nobody_holds_cannot_be_released() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(ValueError, match="not referenced"):
        pool.release(block)


def test_a_block_keeps_its_tiles_until_it_is_forgotten() -> None:
    pool, tile = BlockPool(1), TileKey("a", 0)
    block = pool.allocate()
    pool.register(block, b"key", ((tile, embeddings(tile)),))
    pool.release(block)
    ((kept, rows),) = pool.tiles(block)
    assert kept == tile
    assert rows is not None
    assert pool.allocate() == block
    assert pool.lookup(b"key") is None
