"""Responses that are kept: each is a conversation of one turn, and a later one begins with a copy of it.

So each has instructions of its own, can be gone on from any number of times, and is forgotten alone, as in
OpenAI's API. Its id is that of its conversation and, if it runs in the background, of its turn.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from gateway.conversation_calls import ConversationCalls
from gateway.http.endpoint import Call
from gateway.http.response_object import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, INCOMPLETE, ResponseObject
from gateway.turn_calls import TurnCalls
from internvl.errors import FailedPrecondition, NotFound
from internvl.v1 import chat_service_pb2, content_pb2

_ID = re.compile(r"resp_([A-Za-z0-9-]{1,64})(?:\.([A-Za-z0-9_-]{1,64}))?")

_STATUS = {
    chat_service_pb2.TURN_OUTCOME_STOP: COMPLETED,
    chat_service_pb2.TURN_OUTCOME_LENGTH: INCOMPLETE,
    chat_service_pb2.TURN_OUTCOME_CANCELLED: CANCELLED,
    chat_service_pb2.TURN_OUTCOME_ERROR: FAILED,
}
_BROKEN_OFF = {"code": "server_error", "message": "the answer was broken off"}


@dataclass(frozen=True, slots=True)
class ResponseId:
    """Where a response is.

    Attributes:
        conversation_id: the conversation that keeps it.
        turn_id: its turn, if it runs in the background.
    """

    conversation_id: str
    turn_id: str | None = None

    @classmethod
    def parse(cls, text: str) -> ResponseId:
        """Read an id.

        Raises:
            NotFound: it is none of ours.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise NotFound("no response of this id is kept")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"resp_{self.conversation_id}" + (f".{self.turn_id}" if self.turn_id else "")


class ResponseArchive:
    """Finds, makes and forgets the conversations of responses."""

    def __init__(
        self,
        conversations: ConversationCalls,
        turns: TurnCalls,
        timeout_s: float,
        time_to_live_s: float | None,
    ) -> None:
        """Begin.

        Args:
            conversations: keep them.
            turns: run those in the background.
            timeout_s: time that one may take which is not in the background.
            time_to_live_s: how long each is kept; None for as long as conversations are.
        """
        self._conversations = conversations
        self._turns = turns
        self._timeout_s = timeout_s
        self._time_to_live = None if time_to_live_s is None else Duration(seconds=math.ceil(time_to_live_s))

    async def create(self, system_text: str | None, call: Call) -> ResponseId:
        """Make room for a response."""
        request = chat_service_pb2.CreateConversationRequest(
            system_text=system_text, time_to_live=self._time_to_live
        )
        created = await self._conversations.create_conversation(request, call.caller, call.deadline)
        return ResponseId(created.conversation.conversation_id)

    async def start(self, chat: chat_service_pb2.ChatRequest, call: Call) -> ResponseId:
        """Run the turn of a response in the background."""
        request = chat_service_pb2.StartTurnRequest(chat=chat)
        started = await self._turns.start_turn(request, call.caller, call.deadline)
        return ResponseId(chat.conversation_id, started.turn_id)

    async def history(self, text: str, call: Call) -> Sequence[content_pb2.Message]:
        """What was said up to a response and in it, without its instructions.

        Raises:
            NotFound: there is none of this id.
            FailedPrecondition: it has no answer yet.
        """
        conversation = await self._conversation(ResponseId.parse(text), call)
        if not conversation.version:
            raise FailedPrecondition("previous_response_id: that response has no answer yet")
        return [message for message in conversation.messages if message.role != content_pb2.ROLE_SYSTEM]

    async def questions(self, text: str, call: Call) -> Sequence[content_pb2.Message]:
        """What a response was asked, oldest first."""
        conversation = await self._conversation(ResponseId.parse(text), call)
        return conversation.messages[:-1] if conversation.version else []

    async def get(self, text: str, model: str, call: Call) -> ResponseObject:
        """A response as it is now.

        Raises:
            NotFound: there is none of this id.
        """
        response_id = ResponseId.parse(text)
        conversation = await self._conversation(response_id, call)
        created = conversation.create_time.ToSeconds()
        response = ResponseObject(text, model, created=float(created), background=bool(response_id.turn_id))
        if conversation.version:
            record = conversation.turns[-1]
            response.status = _STATUS.get(record.outcome, COMPLETED)
            response.text = "".join(part.text for part in conversation.messages[-1].parts)
            response.usage = record.usage
            response.error = _BROKEN_OFF if response.status == FAILED else None
        elif not await self._look(response, response_id, call) and self._is_over(response_id, created):
            # Its gateway is gone, and nobody else goes on with it.
            response.status, response.error = FAILED, _BROKEN_OFF
        return response

    async def cancel(self, text: str, call: Call) -> None:
        """End a response that runs in the background.

        Raises:
            FailedPrecondition: it does not.
            NotFound: there is none of this id.
        """
        response_id = ResponseId.parse(text)
        await self._conversation(response_id, call)
        if response_id.turn_id is None:
            raise FailedPrecondition("only responses in the background can be cancelled")
        request = chat_service_pb2.CancelTurnRequest(turn_id=response_id.turn_id)
        with suppress(NotFound):  # it ended long ago
            await self._turns.cancel_turn(request, call.caller, call.deadline)

    async def delete(self, response_id: ResponseId, call: Call) -> None:
        """Forget a response.

        Raises:
            NotFound: there is none of this id.
        """
        if response_id.turn_id is not None:
            request = chat_service_pb2.CancelTurnRequest(turn_id=response_id.turn_id)
            with suppress(NotFound):
                await self._turns.cancel_turn(request, call.caller, call.deadline)
        forgotten = chat_service_pb2.DeleteConversationRequest(conversation_id=response_id.conversation_id)
        await self._conversations.delete_conversation(forgotten, call.caller, call.deadline)

    def _is_over(self, response_id: ResponseId, created: float) -> bool:
        """Whether a response without an answer has none to come."""
        longest_s = self._timeout_s if response_id.turn_id is None else self._turns.longest_s
        return time.time() - created > longest_s

    async def _look(self, response: ResponseObject, response_id: ResponseId, call: Call) -> bool:
        """Fill in how far a turn has come; whether this gateway knows."""
        if response_id.turn_id is None:
            return False
        request = chat_service_pb2.GetTurnRequest(turn_id=response_id.turn_id)
        try:
            turn = await self._turns.get_turn(request, call.caller, call.deadline)
        except NotFound:
            return False
        response.text = turn.text or None
        match turn.state:
            case chat_service_pb2.TURN_STATE_DONE:
                response.finish(turn.result)
            case chat_service_pb2.TURN_STATE_FAILED:
                response.status = FAILED
                response.error = {"code": "server_error", "message": turn.error.message}
            case chat_service_pb2.TURN_STATE_CANCELLED:
                response.status = CANCELLED
            case _:
                response.status = IN_PROGRESS
        return True

    async def _conversation(self, response_id: ResponseId, call: Call) -> chat_service_pb2.Conversation:
        request = chat_service_pb2.GetConversationRequest(conversation_id=response_id.conversation_id)
        try:
            found = await self._conversations.get_conversation(request, call.caller, call.deadline)
        except NotFound:
            raise NotFound("no response of this id is kept") from None
        return found.conversation
