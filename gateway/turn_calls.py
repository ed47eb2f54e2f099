"""The calls about turns that go on without their clients: start, look, read on, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gateway.caller import Caller
from gateway.chats import Chats
from gateway.deadline import Deadline
from gateway.failures import failure_to_proto
from gateway.turns.live_turn import TurnState
from gateway.turns.live_turns import LiveTurns
from internvl.v1 import chat_service_pb2

_STATES = {
    TurnState.RUNNING: chat_service_pb2.TURN_STATE_RUNNING,
    TurnState.DONE: chat_service_pb2.TURN_STATE_DONE,
    TurnState.FAILED: chat_service_pb2.TURN_STATE_FAILED,
    TurnState.CANCELLED: chat_service_pb2.TURN_STATE_CANCELLED,
}


class TurnCalls:
    """What can be done with turns of this gateway.

    Requests and answers are the messages of `internvl.v1.ChatService`, which say what each field means.
    Every call may raise `ServingError`.
    """

    def __init__(self, chats: Chats, turns: LiveTurns) -> None:
        self._chats = chats
        self._turns = turns

    @property
    def longest_s(self) -> float:
        """Time that a turn in the background may take."""
        return self._turns.longest_s

    async def start_turn(
        self, request: chat_service_pb2.StartTurnRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.StartTurnResponse:
        return chat_service_pb2.StartTurnResponse(turn_id=self._chats.start(request.chat, caller).turn_id)

    async def get_turn(
        self, request: chat_service_pb2.GetTurnRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.GetTurnResponse:
        turn = self._turns.get(request.turn_id, caller.tenant)
        error = turn.error if turn.state is TurnState.FAILED else None
        return chat_service_pb2.GetTurnResponse(
            turn_id=turn.turn_id,
            state=_STATES[turn.state],
            text=turn.text,
            encoding=turn.encoding,
            last_event_id=turn.last_event_id,
            result=turn.result,
            error=None if error is None else failure_to_proto(error),
        )

    async def attach_turn(
        self, request: chat_service_pb2.AttachTurnRequest, caller: Caller, deadline: Deadline
    ) -> AsyncIterator[chat_service_pb2.AttachTurnResponse]:
        turn = self._turns.get(request.turn_id, caller.tenant)
        async for event in turn.read(request.after_event_id):
            yield chat_service_pb2.AttachTurnResponse(event=event)

    async def cancel_turn(
        self, request: chat_service_pb2.CancelTurnRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.CancelTurnResponse:
        await self._turns.cancel(self._turns.get(request.turn_id, caller.tenant))
        return chat_service_pb2.CancelTurnResponse()
