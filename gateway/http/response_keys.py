"""Which response answers an `Idempotency-Key`.

The turn of a response has the key as well, within the conversation that keeps the response: so who repeats a
request finds the conversation here, and the answer there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from gateway.http.endpoint import Call
from gateway.http.response_archive import ResponseId
from gateway.storage.claims import Answered, Claim, Claims
from gateway.turns.turn_fields import fingerprint, new_turn_id, turn_key
from internvl.errors import ServingError
from internvl.v1 import chat_service_pb2

# No client can give a key that begins so: those of responses and of chat completions are apart.
_SCOPE = "response#"


class ResponseKeys:
    """Keys that are claimed for a response, and answered with its id."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    async def find(
        self, chat: chat_service_pb2.ChatRequest, call: Call, *, background: bool
    ) -> Claim | ResponseId | None:
        """The response that answers a request's key, the claim to give it one, or None if it has no key.

        Args:
            chat: the turn, with all that the request says and with its key, outside of any conversation.
            call: the request.
            background: whether it is to go on without its client.

        Raises:
            AlreadyExists: the key was used with another request.
            DeadlineExceeded: the first request still runs.
            InvalidField: the key cannot be used.
        """
        key = turn_key(chat, call.caller)
        if key is None:
            return None
        key = replace(key, key=f"{_SCOPE}{key.key}")
        asked = f"{fingerprint(chat)} {background}"
        found = await self._claims.wait(key, asked, new_turn_id(), call.deadline)
        return ResponseId.parse(found.answer.decode()) if isinstance(found, Answered) else found

    @asynccontextmanager
    async def held(self, claim: Claim | None) -> AsyncIterator[None]:
        """Keep others from answering a key while the block runs; at its end, it is free unless answered."""
        if claim is None:
            yield
            return
        async with self._claims.held(claim):
            yield

    async def answer(self, claim: Claim | None, response_id: str) -> None:
        """Answer a key. The response is there already: if this fails, a repetition makes another one."""
        if claim is not None:
            with suppress(ServingError):
                await self._claims.answer(claim, response_id.encode())
