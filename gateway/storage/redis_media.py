"""The index of media in Redis."""

from __future__ import annotations

from gateway.storage import redis_media_scripts
from gateway.storage.media_index import Added, MediaBounds, no_room, unknown_media
from gateway.storage.redis_store import RedisServer


class RedisMedia:
    """A `MediaIndex`."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def add(
        self, tenant: str, media_id: str, size: int, place: str, bounds: MediaBounds
    ) -> Added | None:
        own = bounds.tenant_quota_bytes
        found = await self._server.run(
            redis_media_scripts.ADD,
            *(tenant, media_id, str(size), place, str(bounds.quota_bytes), "" if own is None else str(own)),
        )
        match found:
            case b"unknown":
                return None
            case b"full":
                raise no_room(bounds.quota_bytes, tenant=False)
            case b"tenant full":
                raise no_room(own or 0, tenant=True)
            case _:
                first, *dropped = (each.decode() for each in found)
                return Added(first, tuple(dropped))

    async def touch(self, tenant: str, media_id: str) -> bool:
        return bool(await self._server.run(redis_media_scripts.TOUCH, tenant, media_id))

    async def place(self, media_id: str) -> str:
        found = await self._server.run(redis_media_scripts.PLACE, media_id)
        if not found:
            raise unknown_media()
        return str(found.decode())

    async def find(self, media_id: str) -> str | None:
        found = await self._server.run(redis_media_scripts.FIND, media_id)
        return str(found.decode()) if found else None

    async def forget(self, tenant: str, media_id: str) -> tuple[str, ...]:
        found = await self._server.run(redis_media_scripts.FORGET, tenant, media_id)
        return (found.decode(),) if found else ()

    async def lost(self, media_id: str, place: str) -> None:
        await self._server.run(redis_media_scripts.LOST, media_id, place)

    async def sweep(self, time_to_live_s: float) -> tuple[str, ...]:
        found = await self._server.run(redis_media_scripts.SWEEP, float(time_to_live_s))
        return tuple(each.decode() for each in found)

    async def used_bytes(self) -> int:
        return int(await self._server.run(redis_media_scripts.USED))
