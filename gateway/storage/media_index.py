"""Which media there is, who may see it, and which is needed: what gateways that share a store agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from internvl.errors import FailedPrecondition, NotFound


@dataclass(frozen=True, slots=True)
class MediaBounds:
    """How much is kept, and how long.

    Attributes:
        quota_bytes: all files together.
        tenant_quota_bytes: all files that one tenant sees; None for no bound of its own.
        time_to_live_s: how long a file is kept that nobody uses, in seconds; None for ever.
    """

    quota_bytes: int
    tenant_quota_bytes: int | None = None
    time_to_live_s: float | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """A file that a tenant may now see.

    Attributes:
        place: where it is; not where the caller put it if somebody else was first.
        dropped: places of files that nobody sees any longer, to be deleted.
    """

    place: str
    dropped: tuple[str, ...] = ()


class MediaIndex(Protocol):
    """Files by tenant. The same content is one file, seen only by tenants that have brought it themselves.

    A file that a stored turn shows is pinned until its conversation is deleted or out of time: it is not
    dropped to make room, nor when its time is over. `ConversationStore` counts that in its own transactions.
    Every call raises `Unavailable` while the store is down.
    """

    async def add(
        self, tenant: str, media_id: str, size: int, place: str, bounds: MediaBounds
    ) -> Added | None:
        """Let a tenant see a file, and drop the least recently used to stay within bounds.

        Args:
            tenant: who brought it.
            media_id: hash of its content.
            size: its length in bytes.
            place: where it is; empty if it is nowhere yet: then it is only added if somebody brought it
                before.
            bounds: how much is kept.

        Returns:
            None if the file is unknown and `place` is empty.

        Raises:
            FailedPrecondition: conversations need all that would have to go; nothing is changed.
        """

    async def touch(self, tenant: str, media_id: str) -> bool:
        """Whether a tenant may see a file, which counts as used now."""

    async def place(self, media_id: str) -> str:
        """Where a file is that a turn shows; it counts as used now. Who may see it was asked before.

        Raises:
            NotFound: it was dropped.
        """

    async def find(self, media_id: str) -> str | None:
        """Where a file is, for who only looks; None if it is unknown."""

    async def forget(self, tenant: str, media_id: str) -> tuple[str, ...]:
        """Let a tenant see a file no longer; the place to delete, if nobody else does."""

    async def lost(self, media_id: str, place: str) -> None:
        """A file is not where it was: nobody sees it any longer, unless it was brought anew meanwhile."""

    async def sweep(self, time_to_live_s: float) -> tuple[str, ...]:
        """Drop what nobody has used for so long; the places to delete."""

    async def used_bytes(self) -> int:
        """All files together."""


def unknown_media() -> NotFound:
    """What is raised for media that is not there, or not for this tenant."""
    return NotFound("no media with this id is stored; upload it again")


def no_room(quota_bytes: int, *, tenant: bool) -> FailedPrecondition:
    """What is raised where conversations need all that would have to go."""
    whose = "the media quota of this tenant" if tenant else "the media quota"
    return FailedPrecondition(
        f"{whose}, {quota_bytes} bytes, is used up by conversations; delete some of them",
        metadata={"quota_bytes": quota_bytes},
    )
