"""All replicas of a tier: found by name, watched, and chosen so that caches are hit and nobody is swamped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc

from gateway import metrics
from gateway.tiers.discovery import Target
from gateway.tiers.replica import Health, Replica
from gateway.tiers.routing import LOAD_BOUND, choose, preference
from internvl.errors import Unavailable
from internvl.telemetry import get_logger

C = TypeVar("C")

_log = get_logger("routing")


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """How replicas are found and chosen.

    Attributes:
        load_bound: most requests of one replica, as a multiple of the mean of all.
        resolve_s: time between two looks at a tier's name.
        connect_s: longest wait, at the start of a turn, for a replica that nothing is known of yet.
        away_s: longest wait where all are away: as long as it takes to notice that one has come.
    """

    load_bound: float = LOAD_BOUND
    resolve_s: float = 5.0
    connect_s: float = 5.0
    away_s: float = 1.5


class Replicas(Generic[C]):
    """The replicas of one tier. They come and go with what its targets resolve to."""

    def __init__(
        self,
        peer: str,
        targets: Sequence[Target],
        connect: Callable[[grpc.aio.Channel], C],
        config: RoutingConfig,
    ) -> None:
        """Prepare; `open_replicas` begins to look for them.

        Args:
            peer: what to call the tier in messages.
            targets: where to look.
            connect: makes the calls of a replica from its channel.
            config: how to find and choose.
        """
        self._peer = peer
        self._targets = targets
        self._connect = connect
        self._config = config
        self._replicas: dict[str, Replica[C]] = {}
        self._retired: list[Replica[C]] = []
        self._resolved = False
        self._changes = asyncio.Event()
        self._routed_first = metrics.ROUTED.labels(peer, "first")
        self._routed_other = metrics.ROUTED.labels(peer, "other")

    @asynccontextmanager
    async def lease(
        self, key: bytes, *, avoid: Collection[str] = (), patience_s: float = 0.0
    ) -> AsyncIterator[Replica[C]]:
        """The replica for one call, which counts as its load inside the block.

        Args:
            key: calls of equal keys find the same caches.
            avoid: addresses that failed the caller before; taken only if there are no others.
            patience_s: how long to wait while no replica serves, if that is longer than usual.

        Raises:
            Unavailable: no replica serves.
        """
        replica = await self._pick(key, avoid, patience_s)
        replica.begin()
        try:
            yield replica
        finally:
            replica.end()

    async def look(self) -> None:
        """Keep up with what the targets resolve to, for ever."""
        known: dict[Target, frozenset[str]] = {}
        while True:
            try:
                await self._look_once(known)
            except Exception:
                # Without it no replica would ever come or go again, and nobody would notice.
                _log.error("looking for replicas failed", tier=self._peer, exc_info=True)
            await asyncio.sleep(self._config.resolve_s)

    async def _look_once(self, known: dict[Target, frozenset[str]]) -> None:
        for target in self._targets:
            try:
                known[target] = await target.resolve()
            except (OSError, UnicodeError):
                # The last answer stays good: name servers fail more often than all replicas at once.
                _log.warning("a name cannot be resolved", tier=self._peer)
        await self._update(frozenset().union(*known.values()))
        self._resolved = True
        self._changed()

    async def close(self) -> None:
        """Hang up on all of them."""
        for replica in (*self._replicas.values(), *self._retired):
            await replica.close()

    async def _update(self, addresses: frozenset[str]) -> None:
        for address in addresses - self._replicas.keys():
            self._replicas[address] = Replica(address, self._peer, self._connect, self._changed)
        for address in self._replicas.keys() - addresses:
            self._retired.append(self._replicas.pop(address))
        # What a replica works on when its name leaves goes on to its end.
        for replica in [one for one in self._retired if not one.in_flight]:
            self._retired.remove(replica)
            await replica.close()

    async def _pick(self, key: bytes, avoid: Collection[str], patience_s: float) -> Replica[C]:
        now, config = time.monotonic(), self._config
        patient_until = now + max(patience_s, config.away_s)
        connecting_until = now + max(patience_s, config.connect_s)
        while True:
            if (replica := self._choose(key, avoid)) is not None:
                return replica
            until = connecting_until if self._is_unsure else patient_until
            left = until - time.monotonic()
            if left <= 0:
                raise Unavailable(f"the {self._peer} cannot be reached")
            try:
                await asyncio.wait_for(self._changes.wait(), left)
            except TimeoutError:
                continue

    @property
    def _is_unsure(self) -> bool:
        """Whether some replica has not said yet how it is."""
        unknown = any(replica.health is Health.UNKNOWN for replica in self._replicas.values())
        return unknown or not self._resolved

    def _choose(self, key: bytes, avoid: Collection[str]) -> Replica[C] | None:
        serving = {
            address: replica.in_flight
            for address, replica in self._replicas.items()
            if replica.health is Health.SERVING
        }
        if not serving:
            return None
        ranked = preference(key, serving)
        fresh = {address: serving[address] for address in ranked if address not in avoid}
        chosen = choose(fresh or {address: serving[address] for address in ranked}, self._config.load_bound)
        (self._routed_first if chosen == ranked[0] else self._routed_other).inc()
        return self._replicas[chosen]

    def _changed(self) -> None:
        """Wake whoever waits for a replica."""
        self._changes.set()
        self._changes = asyncio.Event()
        for health in Health:
            count = sum(replica.health is health for replica in self._replicas.values())
            metrics.REPLICAS.labels(self._peer, health.value).set(count)


@asynccontextmanager
async def open_replicas(
    peer: str,
    targets: Sequence[Target],
    connect: Callable[[grpc.aio.Channel], C],
    config: RoutingConfig,
) -> AsyncIterator[Replicas[C]]:
    """Look for the replicas of a tier until the block ends; the arguments are those of `Replicas`."""
    replicas = Replicas(peer, targets, connect, config)
    looking = asyncio.create_task(replicas.look())
    try:
        yield replicas
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        await replicas.close()
