"""Which replica takes a request: rendezvous hashing with bounded load. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b

LOAD_BOUND = 1.25


def preference(key: bytes, replicas: Iterable[str]) -> list[str]:
    """All replicas, the one that a key belongs to first.

    Every key has an order of its own. A replica that leaves moves only the keys that it was first for, each
    to its second; one that comes takes its share evenly from all others.
    """
    names = list(replicas)
    if len(names) == 1:
        return names
    return sorted(names, key=lambda replica: (_weight(key, replica), replica), reverse=True)


def choose(ranked: Mapping[str, int], bound: float = LOAD_BOUND) -> str:
    """The replica for one more request: the first of its key's order that is not too busy.

    Args:
        ranked: requests that each replica works on, in the order of `preference`. At least one replica.
        bound: no replica gets more than this many times the mean of all, this request included, rounded up.
            At least 1, so that there is always one with room.
    """
    room = capacity(ranked, bound)
    return next(name for name, in_flight in ranked.items() if in_flight < room)


def capacity(in_flight: Mapping[str, int], bound: float) -> int:
    """Most requests that a replica may work on once one more has come."""
    return math.ceil(bound * (sum(in_flight.values()) + 1) / len(in_flight))


def _weight(key: bytes, replica: str) -> bytes:
    return blake2b(replica.encode(), digest_size=16, key=blake2b(key, digest_size=32).digest()).digest()
