"""The model served here, and its name."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from gateway.caller import Caller
from gateway.chats import Chats
from gateway.deadline import Deadline
from gateway.http.errors import UnknownModel
from internvl.errors import Unavailable

# A replaced model shows after this time.
_FRESH_S = 10.0


class Models:
    """The one model, as the language tier describes it."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats
        self._since = int(time.time())
        self._name = ""
        self._context_limit = 0
        self._read_at = float("-inf")

    async def check(self, model: str, caller: Caller, deadline: Deadline) -> str:
        """The model's own name.

        Raises:
            UnknownModel: another one is asked for.
            Unavailable: the language tier cannot say.
        """
        if model != self._name or time.monotonic() - self._read_at > _FRESH_S:
            await self._read(caller, deadline)
        if model != self._name:
            raise UnknownModel("model: no such model; GET /v1/models lists what is served here")
        return self._name

    async def last_known(self, caller: Caller, deadline: Deadline) -> str:
        """The model's own name as it was last heard; empty while it never was.

        What is kept can be told without the language tier.
        """
        if not self._name:
            with suppress(Unavailable):
                await self._read(caller, deadline)
        return self._name

    async def all(self, caller: Caller, deadline: Deadline) -> list[dict[str, Any]]:
        """All models."""
        await self._read(caller, deadline)
        return [
            {
                "id": self._name,
                "object": "model",
                "created": self._since,
                "owned_by": "internvl",
                "max_model_len": self._context_limit,
            }
        ]

    async def _read(self, caller: Caller, deadline: Deadline) -> None:
        info = await self._chats.model_info(caller, deadline)
        self._name, self._context_limit = info.model_name, info.context_limit
        self._read_at = time.monotonic()
