"""What the fields of a turn's request mean, beside its messages."""

from __future__ import annotations

import re
import secrets
import uuid
from hashlib import sha256

from gateway.answer import Usage
from gateway.caller import Caller
from gateway.content import Message, Role, Text
from gateway.prompt import Prompt
from gateway.storage.claims import Claim, TurnKey
from gateway.storage.conversations import Conversation, StoredTurn, TurnOutcome, other_version
from gateway.tiers.llm_backend import GenerateOptions
from internvl.errors import DeadlineExceeded, InvalidField
from internvl.v1 import chat_service_pb2, llm_service_pb2

# What the language tier takes too: refused here, a bad name costs no encoding.
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def new_turn_id() -> str:
    """A name for a turn that nobody can guess."""
    return secrets.token_urlsafe(18)


def generate_options(request: chat_service_pb2.ChatRequest, caller: Caller) -> GenerateOptions:
    """How to answer.

    Raises:
        InvalidField: `request_id` cannot be used.
    """
    return GenerateOptions(
        request_id=_name(request.request_id, "request_id")
        if request.HasField("request_id")
        else uuid.uuid4().hex,
        sampling=_seeded(request.sampling),
        prompt=request.prompt,
        priority=request.priority,
        want_replay_bundle=request.want_replay_bundle,
        cache_salt=cache_salt(caller),
    )


def turn_key(request: chat_service_pb2.ChatRequest, caller: Caller) -> TurnKey | None:
    """The idempotency key of a turn, if it has one.

    Raises:
        InvalidField: it cannot be used.
    """
    if not request.HasField("idempotency_key"):
        return None
    key = _name(request.idempotency_key, "idempotency_key")
    return TurnKey(caller.tenant, request.conversation_id, key)


def fingerprint(request: chat_service_pb2.ChatRequest) -> str:
    """Equal for requests that ask the same, however they are named and read."""
    asked = chat_service_pb2.ChatRequest()
    asked.CopyFrom(request)
    for field in ("request_id", "resumable", "expected_version", "priority"):
        asked.ClearField(field)
    return sha256(asked.SerializeToString(deterministic=True)).hexdigest()


def check_version(request: chat_service_pb2.ChatRequest, conversation: Conversation | None) -> None:
    """See that the conversation is what the client thinks it is.

    Raises:
        Conflict: it has changed.
        InvalidField: there is none.
    """
    if not request.HasField("expected_version"):
        return
    if conversation is None:
        raise InvalidField("expected_version", "goes with conversation_id only")
    if request.expected_version != conversation.version:
        raise other_version(request.expected_version, conversation.version)


def stored_turn(
    turn_id: str,
    prompt: Prompt,
    text: str,
    outcome: TurnOutcome,
    claim: Claim | None,
    usage: Usage | None = None,
) -> StoredTurn:
    """A turn as a conversation keeps it."""
    said = (*prompt.messages, Message(Role.ASSISTANT, (Text(text),)))
    return StoredTurn(turn_id, said, outcome, usage, key=None if claim is None else claim.key.key)


def early_outcome(error: BaseException) -> TurnOutcome:
    """How a turn ended that this error ended: its client's patience counts as its client."""
    if isinstance(error, DeadlineExceeded) or not isinstance(error, Exception):
        return TurnOutcome.CANCELLED
    return TurnOutcome.ERROR


def cache_salt(caller: Caller) -> str:
    """Nobody learns from a hit, or from its speed, what another tenant asked."""
    return sha256(caller.tenant.encode()).hexdigest() if caller.tenant else ""


def _name(name: str, field: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidField(field, "must be 1 to 128 of the characters A-Z a-z 0-9 _ . : / -")
    return name


def _seeded(sampling: llm_service_pb2.SamplingParams) -> llm_service_pb2.SamplingParams:
    """The same with a seed, so that another replica draws the same tokens if it has to go on."""
    if not sampling.temperature or sampling.HasField("seed"):
        return sampling
    seeded = llm_service_pb2.SamplingParams()
    seeded.CopyFrom(sampling)
    seeded.seed = secrets.randbits(63)
    return seeded
