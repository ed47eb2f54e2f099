"""What the gateway does, whichever door a request came through: gRPC (`chat.py`) or another."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from gateway import metrics
from gateway.access.access import Access
from gateway.answer import Answer, Event
from gateway.caller import Caller
from gateway.concurrency import Emit, piped, task_group, unless_idle
from gateway.deadline import Deadline
from gateway.events import event_to_proto, result_to_proto
from gateway.prompt_reader import PromptReader
from gateway.storage.claims import Answered, Claim, Claims
from gateway.storage.conversations import Conversation, TurnOutcome
from gateway.storage.store import Store
from gateway.tiers.llm_backend import CountOptions
from gateway.tiers.tier_calls import CallTerms
from gateway.turns.answer_record import AnswerRecord, recorded_events
from gateway.turns.live_turn import LiveTurn
from gateway.turns.live_turns import LiveTurns
from gateway.turns.planning import plan_turn as plan_prompt
from gateway.turns.tiers import Tiers
from gateway.turns.tile_budget import within_budget
from gateway.turns.turn import Turn, TurnRequest
from gateway.turns.turn_fields import (
    cache_salt,
    check_version,
    early_outcome,
    fingerprint,
    generate_options,
    new_turn_id,
    stored_turn,
    turn_key,
)
from gateway.turns.turn_keeper import Place, TurnKeeper
from gateway.wire import RequestLimits, plan_layout
from internvl.errors import BadMedia, InvalidField, ServingError
from internvl.telemetry import get_logger
from internvl.v1 import chat_service_pb2, llm_service_pb2

# Events held for a client that reads slowly; beyond them the turn waits.
_EVENTS_AHEAD = 64

_log = get_logger("gateway")


@dataclass(frozen=True, slots=True)
class RunningTurn:
    """A turn under way.

    Attributes:
        events: what happens, in order; raises what the turn fails with.
    """

    events: AsyncIterator[chat_service_pb2.ChatResponse]
    _cancel: Callable[[], object]

    def cancel(self) -> None:
        """Its client is lost: end the turn at once, on every tier, unless it is resumable."""
        self._cancel()


class Chats:
    """Turns and media over two tiers, a media store and a conversation store.

    Requests and answers are the messages of `internvl.v1.ChatService`, which say what each field means.
    Every call may raise `ServingError`.
    """

    def __init__(
        self,
        access: Access,
        tiers: Tiers,
        store: Store,
        keeper: TurnKeeper,
        turns: LiveTurns,
        limits: RequestLimits,
    ) -> None:
        self._access = access
        self._tiers = tiers
        self._store = store
        self._claims = Claims(store.claims)
        self._keeper = keeper
        self._turns = turns
        self._prompts = PromptReader(tiers.media, limits)

    @asynccontextmanager
    async def chat(
        self, request: chat_service_pb2.ChatRequest, caller: Caller, deadline: Deadline
    ) -> AsyncIterator[RunningTurn]:
        """Run one turn; leaving the block ends it if it still runs, unless it is resumable."""
        if request.resumable:
            yield RunningTurn(self.start(request, caller).read(after=0), lambda: None)
            return
        turn = partial(self._turn, request, caller, deadline, new_turn_id())
        with self._access.turn(caller, request.priority):
            async with piped(turn, _EVENTS_AHEAD) as (events, task):
                yield RunningTurn(aiter(events), task.cancel)

    def start(self, request: chat_service_pb2.ChatRequest, caller: Caller) -> LiveTurn:
        """Start a turn that goes on by itself.

        Raises:
            InvalidField: it is malformed; what only a tier can tell, the turn fails with.
            Overloaded: too many run, of all keys or of this one.
        """
        self._prompts.check(request.messages, continues=request.HasField("conversation_id"))
        turn_id, deadline = new_turn_id(), Deadline.after(self._turns.longest_s)
        turn = partial(self._turn, request, caller, deadline, turn_id)
        with ExitStack() as counted:
            counted.enter_context(self._access.turn(caller, request.priority))
            live = self._turns.start(turn_id, caller.tenant, turn)
            self._turns.when_ended(live, counted.pop_all().close)
        return live

    async def plan_turn(
        self, request: chat_service_pb2.PlanTurnRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.PlanTurnResponse:
        conversation = await self._conversation(request, caller)
        prompt = await self._prompts.read(request.messages, conversation, caller)
        terms = self._terms(deadline)
        if request.HasField("tile_budget"):
            prompt = await within_budget(prompt, request.tile_budget, self._tiers, terms)
        max_tokens = request.max_tokens if request.HasField("max_tokens") else None
        options = CountOptions(request.prompt, cache_salt(caller), max_tokens)
        plan = await plan_prompt(prompt, options, self._tiers, terms)
        return chat_service_pb2.PlanTurnResponse(
            layouts=[plan_layout(layout) for layout in plan.layouts],
            visual_tokens=plan.tokens.visual_tokens,
            prompt_tokens=plan.tokens.prompt_tokens,
            context_limit=plan.tokens.context_limit,
            fits=plan.fits,
            cached_tokens=plan.tokens.cached_tokens,
            tiles=plan.tiles,
            tiles_to_encode=plan.tiles_to_encode,
            kv_bytes=plan.tokens.kv_bytes,
            kv_budget_bytes=plan.tokens.kv_budget_bytes,
            expected_wait_ms=plan.tokens.wait_ms,
        )

    async def upload_media(
        self,
        request_iterator: AsyncIterator[chat_service_pb2.UploadMediaRequest],
        caller: Caller,
        deadline: Deadline,
    ) -> chat_service_pb2.UploadMediaResponse:
        media = self._tiers.media
        async with media.writer("chunk", caller.tenant) as upload:
            async for request in unless_idle(request_iterator, media.config.idle_s):
                await upload.write(request.chunk)
            media_id = await upload.commit()
        with await media.open(media_id) as file:
            try:
                info = await self._tiers.vision.inspect(file, media_id, self._terms(deadline))
            except InvalidField as error:
                await media.forget(caller.tenant, media_id)
                raise BadMedia("chunk", error.problem, metadata=error.metadata) from error
        return chat_service_pb2.UploadMediaResponse(media_id=media_id, size_bytes=upload.size, info=info)

    async def store_media(self, pieces: AsyncIterator[bytes], field: str, caller: Caller) -> str:
        """Store a picture or film for a turn of this caller, and return its id.

        Unlike `upload_media`, nobody looks at it yet: what is wrong with it shows in its turn.

        Args:
            pieces: its bytes.
            field: path of the request's field that holds them, for errors.
            caller: whose it is.
        """
        async with self._tiers.media.writer(field, caller.tenant) as upload:
            async for piece in pieces:
                await upload.write(piece)
            return await upload.commit(may_be_loose=True)

    async def model_info(self, caller: Caller, deadline: Deadline) -> llm_service_pb2.ModelInfoResponse:
        """The language model alone, which is there though the vision tier may be away."""
        return await self._tiers.llm.info(self._terms(deadline))

    async def server_info(
        self, request: chat_service_pb2.ServerInfoRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.ServerInfoResponse:
        async with task_group() as tasks:
            llm = tasks.create_task(self._tiers.llm.info(self._terms(deadline)))
            vision = tasks.create_task(self._tiers.vision.info(self._terms(deadline)))
        return chat_service_pb2.ServerInfoResponse(llm=llm.result(), vision=vision.result())

    async def _turn(
        self,
        request: chat_service_pb2.ChatRequest,
        caller: Caller,
        deadline: Deadline,
        turn_id: str,
        emit: Emit[chat_service_pb2.ChatResponse],
    ) -> None:
        """Run one turn and emit its public events, numbered; or, if its key was answered, those of then."""
        numbers = itertools.count(1)

        async def emit_numbered(event: chat_service_pb2.ChatResponse) -> None:
            event.event_id = next(numbers)
            await emit(event)

        with metrics.TURNS.track_inprogress():
            key = turn_key(request, caller)
            if key is None:
                await self._run(request, caller, deadline, turn_id, None, emit_numbered)
                return
            found = await self._claims.wait(key, fingerprint(request), turn_id, deadline)
            if isinstance(found, Answered):
                for event in recorded_events(found.answer):
                    await emit_numbered(event)
                return
            async with self._claims.held(found):
                await self._run(request, caller, deadline, turn_id, found, emit_numbered)

    async def _run(
        self,
        request: chat_service_pb2.ChatRequest,
        caller: Caller,
        deadline: Deadline,
        turn_id: str,
        claim: Claim | None,
        emit: Emit[chat_service_pb2.ChatResponse],
    ) -> None:
        """Run one turn, and store it if it belongs to a conversation or to a key."""
        arrived = time.monotonic()
        options = generate_options(request, caller)
        conversation = await self._conversation(request, caller)
        check_version(request, conversation)
        prompt = await self._prompts.read(request.messages, conversation, caller)
        if request.HasField("tile_budget"):
            prompt = await within_budget(prompt, request.tile_budget, self._tiers, self._terms(deadline))
        asked = TurnRequest(prompt, options, deadline, arrived)
        record = AnswerRecord()

        async def emit_public(event: Event) -> None:
            public = event_to_proto(event, turn_id)
            if claim is not None:
                record.add(public)
            await emit(public)

        place = Place(caller.tenant, conversation, claim)
        turn = Turn(asked, self._tiers, emit_public)
        try:
            answer = await turn.run()
        except (asyncio.CancelledError, ServingError) as error:
            if turn.text:
                kept = stored_turn(turn_id, prompt, turn.text, early_outcome(error), claim)
                await self._keeper.keep_partial(place, kept)
            raise
        result = result_to_proto(answer, place.next_version)
        outcome = TurnOutcome(answer.outcome.finish_reason.value)
        kept = stored_turn(turn_id, prompt, answer.text, outcome, claim, answer.outcome.usage)
        await self._keeper.keep(place, kept, record.to_bytes(result) if claim is not None else b"")
        await emit(result)
        _log_answer(asked, answer)

    def _terms(self, deadline: Deadline) -> CallTerms:
        return CallTerms(deadline, self._tiers.retries.attempts())

    async def _conversation(
        self, request: chat_service_pb2.ChatRequest | chat_service_pb2.PlanTurnRequest, caller: Caller
    ) -> Conversation | None:
        if not request.HasField("conversation_id"):
            return None
        return await self._store.conversations.get(caller.tenant, request.conversation_id)


def _log_answer(asked: TurnRequest, answer: Answer) -> None:
    usage = answer.outcome.usage
    _log.info(
        "turn answered",
        request_id=asked.options.request_id,
        visuals=len(asked.prompt.visuals),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        first_text_ms=round(answer.first_text_s * 1000, 1),
        total_ms=round((time.monotonic() - asked.arrived) * 1000, 1),
    )
