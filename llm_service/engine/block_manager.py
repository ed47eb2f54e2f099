"""Sequences and blocks: who grows into which, and what of a prompt is there already."""

from __future__ import annotations

from collections.abc import Iterable

from llm_service.engine.blocks import BlockPool
from llm_service.engine.limits import EngineLimits
from llm_service.engine.prefix import HashChain
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import BlockCopy


class BlockManager:
    """Keeps the block tables of sequences: just as long as needed, and nothing shared is ever written."""

    def __init__(self, limits: EngineLimits) -> None:
        self.pool = BlockPool(limits.kv_blocks)
        self.blocks_for = limits.blocks_for
        self._block_size = limits.kv_block_size
        self._reuses = limits.prefix_cache

    def has_place(self, sequence: Sequence) -> bool:
        """Whether the next token of a sequence can be written as things are."""
        index = sequence.computed // self._block_size
        return index < len(sequence.blocks) and self.pool.references(sequence.blocks[index]) == 1

    def wanting(self, sequence: Sequence, tokens: int) -> int:
        """Blocks to allocate before the next `tokens` tokens of a sequence can be written."""
        blocks = self.blocks_for(sequence.computed + tokens) - len(sequence.blocks)
        return blocks + 1 if self._writes_shared(sequence) else max(blocks, 0)

    def grow(self, sequence: Sequence, tokens: int) -> BlockCopy | None:
        """Make room for the next `tokens` tokens; what to copy first, if the block they begin in is shared.

        Raises:
            ValueError: too few blocks are available. Ask `wanting` first.
        """
        pool, blocks = self.pool, sequence.blocks
        copy = None
        if self._writes_shared(sequence):
            index = sequence.computed // self._block_size
            copy = BlockCopy(blocks[index], pool.allocate())
            pool.release(copy.source)
            blocks[index] = copy.target
        for _ in range(self.blocks_for(sequence.computed + tokens) - len(blocks)):
            blocks.append(pool.allocate())
        return copy

    def room(self, sequence: Sequence, spare: int) -> int:
        """Tokens that a sequence can be grown by with `spare` more blocks, shared ones aside."""
        return (len(sequence.blocks) + spare) * self._block_size - sequence.computed

    def promised(self, sequences: Iterable[Sequence]) -> int:
        """Blocks that sequences in prefill still need for their next token."""
        needs = (
            self.blocks_for(sequence.length + 1) - len(sequence.blocks)
            for sequence in sequences
            if not sequence.is_decoding
        )
        return sum(max(need, 0) for need in needs)

    def settle(self, sequence: Sequence) -> None:
        """After a step: register the blocks that became full, give back those that guesses did not fill."""
        full = sequence.computed // self._block_size
        if full > sequence.registered:
            self._register(sequence, full)
        blocks = sequence.blocks
        while len(blocks) * self._block_size >= sequence.computed + self._block_size:
            self.pool.release(blocks.pop())

    def share(self, sequence: Sequence) -> None:
        """Take one more reference to every block of a sequence that was forked off."""
        for block in sequence.blocks:
            self.pool.share(block)

    def release(self, sequence: Sequence) -> None:
        """Give everything back; what is registered stays findable, the start of the sequence longest."""
        for block in reversed(sequence.blocks):
            self.pool.release(block)
        sequence.restart()

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks that hold the start of a sequence already.

        Never its last token: that one has to be computed, for its logits.
        """
        found: list[int] = []
        if self._reuses:
            most = (sequence.length - 1) // self._block_size
            for key in _chain(sequence, self._block_size).hashes(sequence, most):
                block = self.pool.lookup(key)
                if block is None:
                    break
                found.append(block)
        return found

    def adopt(self, sequence: Sequence, found: list[int]) -> None:
        """Begin a sequence with the blocks found, and hand it the embeddings that they were computed from.

        With these it can be computed anew at any time, without asking anybody for tiles again.
        """
        for block in found:
            self.pool.share(block)
            for tile, embeddings in self.pool.tiles(block):
                sequence.receive(tile, embeddings)
        sequence.blocks = found
        sequence.registered = len(found)
        sequence.computed = len(found) * self._block_size

    def catch_up(self, sequence: Sequence) -> None:
        """Go on with blocks that others have filled since; never its last token."""
        while (key := self.next_key(sequence)) and (block := self.pool.lookup(key)) is not None:
            self.pool.share(block)
            for tile, embeddings in self.pool.tiles(block):
                sequence.receive(tile, embeddings)
            sequence.blocks.append(block)
            sequence.registered += 1
            sequence.advance(self._block_size)

    def next_key(self, sequence: Sequence) -> bytes | None:
        """The hash of the block that a sequence begins next.

        None in the middle of a block or of a step, and where it has to compute by itself.
        """
        index = sequence.computed // self._block_size
        begun = index < len(sequence.blocks)
        if begun or not self._reuses or index >= (sequence.length - 1) // self._block_size:
            return None
        return self._keys(sequence, index, index + 1)[0]

    def keys_filled(self, sequence: Sequence, tokens: int) -> list[bytes]:
        """The hashes of the blocks that are full once the next `tokens` tokens are computed."""
        if not self._reuses:
            return []
        size = self._block_size
        return self._keys(sequence, sequence.computed // size, (sequence.computed + tokens) // size)

    def _keys(self, sequence: Sequence, first: int, end: int) -> list[bytes]:
        return _chain(sequence, self._block_size).hashes(sequence, end)[first:]

    def _writes_shared(self, sequence: Sequence) -> bool:
        """Whether the next token goes into a block that others read: only a part full, last one."""
        blocks = sequence.blocks
        index = sequence.computed // self._block_size
        return index < len(blocks) and self.pool.references(blocks[index]) > 1

    def _register(self, sequence: Sequence, full: int) -> None:
        if self._reuses:
            chain = _chain(sequence, self._block_size)
            hashes = chain.hashes(sequence, full)
            for index in range(sequence.registered, full):
                tiles = sequence.embeddings(chain.tiles(index))
                self.pool.register(sequence.blocks[index], hashes[index], tiles)
        sequence.registered = full


def _chain(sequence: Sequence, block_size: int) -> HashChain:
    """The hashes of a sequence under its present regime."""
    if sequence.chain is None or sequence.chain.regime != sequence.regime:
        sequence.chain = HashChain(sequence.request, sequence.regime, block_size)
    return sequence.chain
