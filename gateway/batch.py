"""Many independent questions in one call, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.access.access import Access
from gateway.caller import Caller
from gateway.chats import Chats
from gateway.concurrency import Emit, piped, task_group
from gateway.deadline import Deadline
from gateway.failures import failure_to_proto
from internvl.errors import InternalError, InvalidField, Overloaded, ServingError
from internvl.telemetry import get_logger
from internvl.v1 import chat_service_pb2

_MOST_QUESTIONS = 1000
_DEFAULT_CONCURRENT, _MOST_CONCURRENT = 8, 64
# Results held for a client that reads slowly; beyond them no question begins.
_RESULTS_AHEAD = 16
# How often a question that found its queue full is asked again, after the delay that the refusal names.
_MOST_WAITS = 8

_log = get_logger("batch")


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch under way.

    Attributes:
        responses: results as they come.
        cancel: ends all that still runs.
    """

    responses: AsyncIterator[chat_service_pb2.BatchChatResponse]
    cancel: Callable[[], object]


class BatchCalls:
    """Batches of questions. Requests and answers are the messages of `internvl.v1.ChatService`."""

    def __init__(self, chats: Chats, access: Access) -> None:
        self._chats = chats
        self._access = access

    @asynccontextmanager
    async def batch_chat(
        self, request: chat_service_pb2.BatchChatRequest, caller: Caller, deadline: Deadline
    ) -> AsyncIterator[RunningBatch]:
        """Answer all questions; leaving the block cancels what still runs.

        Each counts as a call of its key, and no more are under way than the key may have turns.

        Raises:
            InvalidField: the batch as a whole cannot be run. What is wrong with one question fails it alone.
        """
        concurrent = _check(request)
        if (most := self._access.most_turns(caller)) is not None:
            concurrent = min(concurrent, most)
        questions = list(request.requests)
        toll = _Toll(self._access, caller, deadline)

        async def answer_all(emit: Emit[chat_service_pb2.BatchChatResponse]) -> None:
            numbers = iter(range(len(questions)))
            counting = asyncio.Lock()
            done = 0

            async def work() -> None:
                nonlocal done
                for number in numbers:
                    response = await self._answer(questions[number], caller, deadline, toll)
                    async with counting:
                        done += 1
                        response.index, response.done, response.total = number, done, len(questions)
                        await emit(response)

            async with task_group() as tasks:
                for _ in range(min(concurrent, len(questions))):
                    tasks.create_task(work())

        async with piped(answer_all, _RESULTS_AHEAD) as (responses, task):
            yield RunningBatch(aiter(responses), task.cancel)

    async def _answer(
        self, question: chat_service_pb2.ChatRequest, caller: Caller, deadline: Deadline, toll: _Toll
    ) -> chat_service_pb2.BatchChatResponse:
        try:
            await toll.pay()
            result = await self._patient_result(question, caller, deadline)
        except ServingError as error:
            return chat_service_pb2.BatchChatResponse(error=failure_to_proto(error))
        except Exception:
            _log.error("question failed", exc_info=True)
            failed = InternalError("the server failed; its log has the details")
            return chat_service_pb2.BatchChatResponse(error=failure_to_proto(failed))
        return chat_service_pb2.BatchChatResponse(result=result)

    async def _patient_result(
        self, question: chat_service_pb2.ChatRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.ChatResult:
        """A batch has time: where a queue is full, it comes again."""
        for _ in range(_MOST_WAITS):
            try:
                return await self._result(question, caller, deadline)
            except Overloaded as error:
                await _wait_after(error, deadline)
        return await self._result(question, caller, deadline)

    async def _result(
        self, question: chat_service_pb2.ChatRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.ChatResult:
        for field in ("conversation_id", "expected_version"):
            if question.HasField(field):
                raise InvalidField(field, "questions of a batch stand alone; use Chat for conversations")
        if question.resumable:
            raise InvalidField("resumable", "a batch ends with its client; use StartTurn for the background")
        async with self._chats.chat(question, caller, deadline) as turn:
            async for event in turn.events:
                if event.HasField("result"):
                    return event.result
        raise InternalError("the turn ended without a result")


class _Toll:
    """Charges a key for each question of a batch but the first, for which the call itself was charged."""

    def __init__(self, access: Access, caller: Caller, deadline: Deadline) -> None:
        self._access = access
        self._caller = caller
        self._deadline = deadline
        self._began = False
        self._paying = asyncio.Lock()

    async def pay(self) -> None:
        """Wait until the key may ask one more question.

        Raises:
            Overloaded: that is later than the client waits.
        """
        async with self._paying:  # in turn, so that none waits for ever
            if not self._began:
                self._began = True
                return
            while True:
                try:
                    self._access.charge(self._caller)
                    return
                except Overloaded as error:
                    await _wait_after(error, self._deadline)


async def _wait_after(refusal: Overloaded, deadline: Deadline) -> None:
    """Wait as long as a refusal asks for; raise it if the client does not wait that long."""
    left = deadline.remaining_s
    if left is not None and refusal.retry_after_s >= left:
        raise refusal
    await asyncio.sleep(refusal.retry_after_s)


def _check(request: chat_service_pb2.BatchChatRequest) -> int:
    """Check the batch as a whole, and return how many questions may be under way at once."""
    count = len(request.requests)
    if not 1 <= count <= _MOST_QUESTIONS:
        raise InvalidField(
            "requests",
            f"must be 1 to {_MOST_QUESTIONS} questions, got {count}",
            metadata={"limit": _MOST_QUESTIONS, "got": count},
        )
    concurrent = request.max_concurrent if request.HasField("max_concurrent") else _DEFAULT_CONCURRENT
    if not 1 <= concurrent <= _MOST_CONCURRENT:
        raise InvalidField("max_concurrent", f"must be 1 to {_MOST_CONCURRENT}, got {concurrent}")
    return concurrent
