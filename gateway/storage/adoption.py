"""Files that an earlier run left, and whose index is gone."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from gateway.storage.media_files import MediaFiles
from gateway.storage.media_index import MediaBounds, MediaIndex
from internvl.errors import FailedPrecondition


async def adopt(files: MediaFiles, index: MediaIndex, tenant: str, bounds: MediaBounds) -> list[str]:
    """Let a tenant see the files that the index does not know.

    What it does know stays whose it is, and was used when it says.

    Returns:
        The places of files to be deleted: out of time, or dropped for others.
    """
    unwanted: list[str] = []
    kept_s = bounds.time_to_live_s
    for found in await asyncio.to_thread(files.found):
        if await index.find(found.media_id) is not None:
            continue
        if kept_s is not None and found.used <= time.time() - kept_s:
            unwanted.append(found.place)
            continue
        with suppress(FailedPrecondition):
            added = await index.add(tenant, found.media_id, found.size, found.place, bounds)
            unwanted += added.dropped if added is not None else ()
    return unwanted
