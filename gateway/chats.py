"""What the gateway does, whichever door a request came through: gRPC (`chat.py`) or another."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from gateway import metrics
from gateway.answer import Answer
from gateway.caller import Caller
from gateway.concurrency import Emit, piped, task_group, together
from gateway.content import IncomingMessage, InlineMedia, Media, Message, Part, Role, Text
from gateway.conversations import Conversation, StoredTurn, TurnOutcome
from gateway.events import event_to_proto, result_to_proto
from gateway.llm_backend import GenerateOptions
from gateway.planning import plan_turn as plan_prompt
from gateway.prompt import Prompt
from gateway.store import Store
from gateway.tier_calls import CallTerms, Deadline
from gateway.turn import Tiers, Turn, TurnRequest
from gateway.wire import RequestLimits, plan_layout, read_messages
from internvl.errors import BadMedia, InvalidField, NotFound
from internvl.telemetry import get_logger
from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2

# Events held for a client that reads slowly; beyond them the turn waits.
_EVENTS_AHEAD = 64
# What the language tier takes too: refused here, a bad name costs no encoding.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")

_log = get_logger("gateway")


@dataclass(frozen=True, slots=True)
class RunningTurn:
    """A turn under way.

    Attributes:
        events: what happens, in order; raises what the turn fails with.
    """

    events: AsyncIterator[chat_service_pb2.ChatResponse]
    _task: asyncio.Task[None]

    def cancel(self) -> None:
        """End the turn at once, on every tier."""
        self._task.cancel()


class Chats:
    """Turns and media over two tiers, a media store and a conversation store.

    Requests and answers are the messages of `internvl.v1.ChatService`, which say what each field means.
    Every call may raise `ServingError`.
    """

    def __init__(self, tiers: Tiers, store: Store, limits: RequestLimits) -> None:
        self._tiers = tiers
        self._store = store
        self._limits = limits

    @asynccontextmanager
    async def chat(
        self, request: chat_service_pb2.ChatRequest, caller: Caller, deadline: Deadline
    ) -> AsyncIterator[RunningTurn]:
        """Run one turn; leaving the block ends it if it still runs."""
        turn = partial(self._turn, request, caller, deadline, time.monotonic())
        with metrics.TURNS.track_inprogress():
            async with piped(turn, _EVENTS_AHEAD) as (events, task):
                yield RunningTurn(aiter(events), task)

    async def plan_turn(
        self, request: chat_service_pb2.PlanTurnRequest, caller: Caller, deadline: Deadline
    ) -> chat_service_pb2.PlanTurnResponse:
        conversation = await self._conversation(request, caller)
        prompt = await self._prompt(request.messages, conversation)
        plan = await plan_prompt(prompt, request.prompt, self._tiers, self._terms(deadline))
        return chat_service_pb2.PlanTurnResponse(
            layouts=[plan_layout(layout) for layout in plan.layouts],
            visual_tokens=plan.tokens.visual_tokens,
            prompt_tokens=plan.tokens.prompt_tokens,
            context_limit=plan.tokens.context_limit,
            fits=plan.fits,
        )

    async def upload_media(
        self,
        request_iterator: AsyncIterator[chat_service_pb2.UploadMediaRequest],
        caller: Caller,
        deadline: Deadline,
    ) -> chat_service_pb2.UploadMediaResponse:
        media = self._tiers.media
        async with media.writer("chunk") as upload:
            async for request in request_iterator:
                await upload.write(request.chunk)
            media_id = await upload.commit()
        with await media.open(media_id) as file:
            try:
                info = await self._tiers.vision.inspect(file, media_id, self._terms(deadline))
            except InvalidField as error:
                await media.delete(media_id)
                raise BadMedia("chunk", error.problem, metadata=error.metadata) from error
        return chat_service_pb2.UploadMediaResponse(media_id=media_id, size_bytes=upload.size, info=info)

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
        arrived: float,
        emit: Emit[chat_service_pb2.ChatResponse],
    ) -> None:
        """Run one turn and emit its public events; store it if it belongs to a conversation."""
        options = GenerateOptions(
            request_id=_request_id(request),
            sampling=_seeded(request.sampling),
            prompt=request.prompt,
            priority=request.priority,
            want_replay_bundle=request.want_replay_bundle,
            cache_salt=_cache_salt(caller),
        )
        conversation = await self._conversation(request, caller)
        prompt = await self._prompt(request.messages, conversation)
        asked = TurnRequest(prompt, options, deadline, arrived)
        answer = await Turn(asked, self._tiers, lambda event: emit(event_to_proto(event))).run()
        version = None
        if conversation is not None:
            said = (*prompt.messages, Message(Role.ASSISTANT, (Text(answer.text),)))
            outcome = TurnOutcome(answer.outcome.finish_reason.value)
            turn = StoredTurn(options.request_id, said, outcome, answer.outcome.usage)
            version = await self._store.conversations.append(
                caller.tenant, conversation.conversation_id, conversation.version, turn
            )
        await emit(result_to_proto(answer, version))
        _log_answer(asked, answer)

    def _terms(self, deadline: Deadline) -> CallTerms:
        return CallTerms(deadline, self._tiers.retries.attempts())

    async def _conversation(
        self, request: chat_service_pb2.ChatRequest | chat_service_pb2.PlanTurnRequest, caller: Caller
    ) -> Conversation | None:
        if not request.HasField("conversation_id"):
            return None
        return await self._store.conversations.get(caller.tenant, request.conversation_id)

    async def _prompt(
        self, messages: Sequence[content_pb2.Message], conversation: Conversation | None
    ) -> Prompt:
        """Check what was said, put its media into the store, and join it to the conversation."""
        incoming = read_messages(messages, self._limits, continues=conversation is not None)
        history = conversation.messages if conversation is not None else ()
        self._check_visuals(history, incoming)
        stored = await together(
            self._store_media(message, f"messages[{number}]") for number, message in enumerate(incoming)
        )
        return Prompt(history, tuple(stored))

    def _check_visuals(self, history: Sequence[Message], incoming: Sequence[IncomingMessage]) -> None:
        messages: list[Message | IncomingMessage] = [*history, *incoming]
        count = sum(not isinstance(part, Text) for message in messages for part in message.parts)
        limit = self._limits.max_visuals
        if count > limit:
            raise InvalidField(
                "messages",
                f"at most {limit} pictures and films in a prompt, got {count}",
                metadata={"limit": limit, "got": count},
            )

    async def _store_media(self, message: IncomingMessage, field: str) -> Message:
        parts = [
            await self._store_part(part, f"{field}.parts[{position}]")
            for position, part in enumerate(message.parts)
        ]
        return Message(message.role, tuple(parts))

    async def _store_part(self, part: Part | InlineMedia, field: str) -> Part:
        match part:
            case InlineMedia(data, options):
                media = Media("", options)
                return Media(await self._tiers.media.put(data, f"{field}.{media.kind}"), options)
            case Media(media_id, _) if media_id not in self._tiers.media:
                raise NotFound(f"{field}.{part.kind}.source.media_id: no media of this id is stored")
            case _:
                return part


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


def _request_id(request: chat_service_pb2.ChatRequest) -> str:
    if not request.HasField("request_id"):
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(request.request_id):
        raise InvalidField("request_id", "must be 1 to 128 of the characters A-Z a-z 0-9 _ . : / -")
    return request.request_id


def _seeded(sampling: llm_service_pb2.SamplingParams) -> llm_service_pb2.SamplingParams:
    """The same with a seed, so that another replica draws the same tokens if it has to go on."""
    if not sampling.temperature or sampling.HasField("seed"):
        return sampling
    seeded = llm_service_pb2.SamplingParams()
    seeded.CopyFrom(sampling)
    seeded.seed = secrets.randbits(63)
    return seeded


def _cache_salt(caller: Caller) -> str:
    """Nobody learns from a hit, or from its speed, what another tenant asked."""
    return sha256(caller.tenant.encode()).hexdigest() if caller.tenant else ""
