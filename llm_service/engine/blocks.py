"""The blocks of the key-value cache: who holds which, and which can be found again."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, TypeAlias

from llm_service.engine.request import Embeddings, TileKey

Tiles: TypeAlias = tuple[tuple[TileKey, Embeddings], ...]


class _Content(NamedTuple):
    """What a registered block holds: its hash, and the embeddings of the tiles it touches."""

    key: bytes
    tiles: Tiles


class BlockPool:
    """Blocks 0 to `total - 1`. Each is free, referenced, or cached: unreferenced, but findable by hash.

    Only numbers live here; the memory is the model's.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._references = [0] * total
        self._free = list(reversed(range(total)))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._contents: dict[int, _Content] = {}
        self._blocks: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that hold nothing of use."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that nobody references, kept until their room is needed."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that somebody references."""
        return self.total - self.free - self.cached

    @property
    def available(self) -> int:
        """Blocks that can be allocated."""
        return self.free + self.cached

    def references(self, block: int) -> int:
        """How many hold a block."""
        return self._references[block]

    def allocate(self) -> int:
        """A block of undefined content with one reference. Forgets the oldest cached one if none is free.

        Raises:
            ValueError: every block is referenced. Ask `available` first.
        """
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block, _ = self._cached.popitem(last=False)
            del self._blocks[self._contents.pop(block).key]
        else:
            raise ValueError(f"all {self.total} blocks are referenced")
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add a reference to a block that is referenced or cached."""
        self._references[block] += 1
        self._cached.pop(block, None)

    def release(self, block: int) -> None:
        """Drop a reference; without any, a registered block is cached and another one free.

        Raises:
            ValueError: nobody holds the block.
        """
        if not self._references[block]:
            raise ValueError(f"block {block} is not referenced")
        self._references[block] -= 1
        if self._references[block]:
            return
        if block in self._contents:
            self._cached[block] = None
        else:
            self._free.append(block)

    def register(self, block: int, key: bytes, tiles: Tiles = ()) -> None:
        """Make a full block findable; it must never be written again.

        Nothing happens if another block is known under `key`: two sequences computed the same at once.
        """
        if key not in self._blocks:
            self._blocks[key] = block
            self._contents[block] = _Content(key, tiles)

    def lookup(self, key: bytes) -> int | None:
        """The block registered under a hash."""
        return self._blocks.get(key)

    def tiles(self, block: int) -> Tiles:
        """The embeddings of the tiles that a registered block touches.

        Raises:
            KeyError: it is not registered.
        """
        return self._contents[block].tiles
