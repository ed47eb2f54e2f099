"""Pictures and films that a request brings, put into the media store before its turn begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.caller import Caller
from gateway.concurrency import together
from gateway.http.data_url import decoded, is_data_url
from gateway.http.remote_media import RemoteMedia


class StoreMedia(Protocol):
    """As `Chats.store_media`."""

    async def __call__(self, pieces: AsyncIterator[bytes], field: str, caller: Caller) -> str: ...


@dataclass(slots=True)
class BroughtMedia:
    """A picture or film of a request.

    Attributes:
        url: where it is; let go as soon as the file is stored.
        field: what the client calls the field that holds the URL.
        media_id: names the file, once it is stored.
    """

    url: str
    field: str
    media_id: str = ""


class MediaReader:
    """Stores what requests bring."""

    def __init__(self, store: StoreMedia, remote: RemoteMedia) -> None:
        self._store = store
        self._remote = remote

    async def store(self, brought: Sequence[BroughtMedia], caller: Caller) -> None:
        """Store all of it and name each by its id.

        Raises:
            ServingError: one cannot be read, fetched or kept; names its field.
        """
        await together(self._store_one(media, caller) for media in brought if not is_data_url(media.url))
        # One after the other: each is let go before the next one is decoded.
        for media in brought:
            if media.url:
                await self._store_one(media, caller)

    async def _store_one(self, media: BroughtMedia, caller: Caller) -> None:
        if is_data_url(media.url):
            media.media_id = await self._store(decoded(media.url, media.field), media.field, caller)
        else:
            async with self._remote.fetch(media.url, media.field) as pieces:
                media.media_id = await self._store(pieces, media.field, caller)
        media.url = ""
