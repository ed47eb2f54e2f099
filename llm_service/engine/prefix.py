"""What identifies a block of keys and values: everything they were computed from."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from hashlib import blake2b
from typing import TYPE_CHECKING

from llm_service.engine.request import Request, TileKey

if TYPE_CHECKING:
    from llm_service.engine.sequence import Sequence

_DIGEST_BYTES = 32
_LENGTHS = struct.Struct("<II")
_VISUAL_RUN = struct.Struct("<IIIII")


class HashChain:
    """The hashes of one sequence's full blocks, each computed once.

    hash = H(hash of the block before | token ids | a record for each run of visual tokens)
    root = H(block size | cache scope | rope regime)

    Two messages are equal only if all their parts are: ids have a fixed size, and every part of variable size
    follows its length. A record says where in the block a run lies, which tile it shows and from which row.
    """

    def __init__(self, request: Request, regime: Hashable, block_size: int) -> None:
        """Begin a chain.

        Args:
            regime: rope regime of the keys; regimes must differ in their `repr`.
            block_size: tokens in a block.
        """
        self.regime = regime
        self._request = request
        self._block_size = block_size
        self._hashes: list[bytes] = []
        self._tiles: list[tuple[TileKey, ...]] = []
        self._last = _root_hash(request.cache_scope, regime, block_size)
        self._slot = 0  # the first that reaches past the blocks hashed so far

    def hashes(self, sequence: Sequence, count: int) -> list[bytes]:
        """The hashes of the first `count` blocks of the sequence whose chain this is."""
        for index in range(len(self._hashes), count):
            self._append(sequence, index * self._block_size)
        return self._hashes[:count]

    def tiles(self, index: int) -> tuple[TileKey, ...]:
        """The tiles that a block touches. Its hash must have been asked for."""
        return self._tiles[index]

    def copy(self) -> HashChain:
        """The chain of a sibling, which goes on in its own way."""
        twin = HashChain.__new__(HashChain)
        twin.__dict__ |= self.__dict__
        twin._hashes, twin._tiles = self._hashes.copy(), self._tiles.copy()
        return twin

    def _append(self, sequence: Sequence, start: int) -> None:
        end = start + self._block_size
        message = [self._last, sequence.ids(start, end).astype("<i8", copy=False).tobytes()]
        tiles = []
        slots = self._request.slots
        while self._slot < len(slots) and slots[self._slot].offset < end:
            slot = slots[self._slot]
            first, last = max(slot.offset, start), min(slot.end, end)
            name = slot.tile.visual_id.encode()
            run = (first - start, last - first, first - slot.offset, slot.tile.number, len(name))
            message += [_VISUAL_RUN.pack(*run), name]
            tiles.append(slot.tile)
            if slot.end > end:
                break
            self._slot += 1
        self._last = _digest(b"block", b"".join(message))
        self._hashes.append(self._last)
        self._tiles.append(tuple(tiles))


def _root_hash(scope: str, regime: Hashable, block_size: int) -> bytes:
    name = scope.encode()
    return _digest(b"root", _LENGTHS.pack(block_size, len(name)) + name + repr(regime).encode())


def _digest(kind: bytes, message: bytes) -> bytes:
    return blake2b(message, digest_size=_DIGEST_BYTES, person=kind).digest()
