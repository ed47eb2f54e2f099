"""The language tier as the gateway sees it. Tiles pass through here as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from gateway.answer import ChoiceEnd, Delta, FinishReason, Outcome, Timings, Usage
from gateway.content import Layout, Media, Message, Text
from gateway.prompt import Prompt
from gateway.tiers.replica import Replica
from gateway.tiers.replicas import Replicas
from gateway.tiers.tier_calls import CallTerms, answered, leased, next_message
from gateway.wire import layout_to_proto, role_number
from internvl.errors import InternalError
from internvl.v1 import llm_service_pb2, llm_service_pb2_grpc

PEER = "language service"
_SERVICE = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name

_FINISH_REASONS = {
    llm_service_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    llm_service_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How to answer. All but the name and the salt is the client's own, carried on unread.

    Attributes:
        cache_salt: keys and values are shared only between requests of the same one.
    """

    request_id: str
    sampling: llm_service_pb2.SamplingParams
    prompt: llm_service_pb2.PromptOptions
    priority: int = 0
    want_replay_bundle: bool = False
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class CountOptions:
    """How a prompt would be answered; as in `GenerateOptions`, and `max_tokens` as in its sampling."""

    prompt: llm_service_pb2.PromptOptions
    cache_salt: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """Embeddings that the language tier waits for, from `first_tile` on."""

    visual_id: str
    first_tile: int


@dataclass(frozen=True, slots=True)
class Admission:
    """The language tier took a request.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: how many of them it still has.
        needed: what to send, in this order.
        model: names the weights that answer.
    """

    prompt_tokens: int
    cached_tokens: int
    needed: tuple[Need, ...]
    model: str


@dataclass(frozen=True, slots=True)
class TokenCount:
    """What a prompt and its answer would take.

    Attributes:
        prompt_tokens: tokens of the prompt, visual ones included.
        visual_tokens: those of its pictures and films.
        context_limit: most tokens that prompt and answer may have together.
        cached_tokens: tokens of the prompt whose keys and values are cached.
        needed: embeddings that would be asked for, as far as the layouts name them.
        kv_bytes: memory of keys and values of prompt and answer.
        kv_budget_bytes: memory of the whole cache; 0 if the tier does not say.
        wait_ms: expected wait for a place.
    """

    prompt_tokens: int
    visual_tokens: int
    context_limit: int
    cached_tokens: int
    needed: tuple[Need, ...]
    kv_bytes: int
    kv_budget_bytes: int
    wait_ms: float


class LlmCalls:
    """The calls of one replica."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: llm_service_pb2_grpc.LlmServiceAsyncStub = llm_service_pb2_grpc.LlmServiceStub(channel)
        self.generate: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            f"/{_SERVICE}/Generate",
            request_serializer=None,  # frames are bytes already
            response_deserializer=llm_service_pb2.GenerateResponse.FromString,
        )


class LlmBackend:
    """The language tier. Every call raises `ServingError` with what the tier answered."""

    def __init__(self, replicas: Replicas[LlmCalls]) -> None:
        self._replicas = replicas

    @asynccontextmanager
    async def generate(
        self,
        prompt: Prompt,
        layouts: Mapping[Media, Layout],
        options: GenerateOptions,
        delivered: Sequence[int],
        terms: CallTerms,
    ) -> AsyncIterator[GenerateStream]:
        """Open a generation. Leaving the block cancels what is still running.

        Args:
            delivered: ids of the tokens that another replica gave already; the answer goes on behind them.

        Raises:
            ReplicaLost: the replica went away; another one can go on.
        """
        opening = llm_service_pb2.GenerateOpen(
            messages=_prompt_messages(prompt, layouts),
            sampling=options.sampling,
            prompt=options.prompt,
            request_id=options.request_id,
            priority=options.priority,
            delivered_token_ids=delivered,
            cache_salt=options.cache_salt or None,
            want_replay_bundle=options.want_replay_bundle,
        )
        async with leased(self._replicas, prompt.affinity(options.cache_salt), terms) as replica:
            call = replica.calls.generate(timeout=terms.deadline.next_hop_s)
            try:
                stream = GenerateStream(call, replica)
                await stream.send(llm_service_pb2.GenerateRequest(open=opening).SerializeToString())
                yield stream
            finally:
                call.cancel()

    async def count_tokens(
        self,
        prompt: Prompt,
        layouts: Mapping[Media, Layout],
        options: CountOptions,
        terms: CallTerms,
    ) -> TokenCount:
        """Count a prompt, where it would be answered."""
        request = llm_service_pb2.CountTokensRequest(
            messages=_prompt_messages(prompt, layouts),
            prompt=options.prompt,
            cache_salt=options.cache_salt or None,
            max_tokens=options.max_tokens,
        )
        counted = await answered(
            self._replicas,
            prompt.affinity(options.cache_salt),
            terms,
            lambda calls, timeout: calls.stub.CountTokens(request, timeout=timeout),
        )
        return TokenCount(
            prompt_tokens=counted.prompt_tokens,
            visual_tokens=counted.visual_tokens,
            context_limit=counted.context_limit,
            cached_tokens=counted.cached_tokens,
            needed=tuple(Need(need.visual_id, need.first_tile) for need in counted.needed),
            kv_bytes=counted.kv_bytes,
            kv_budget_bytes=counted.kv_budget_bytes,
            wait_ms=counted.expected_wait_ms,
        )

    async def info(self, terms: CallTerms) -> llm_service_pb2.ModelInfoResponse:
        """The loaded model; the contract's own message, because the public answer carries it on."""
        request = llm_service_pb2.ModelInfoRequest()
        return await answered(
            self._replicas, b"", terms, lambda calls, timeout: calls.stub.ModelInfo(request, timeout=timeout)
        )


class GenerateStream:
    """One answer in the making."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[bytes, llm_service_pb2.GenerateResponse],
        replica: Replica[LlmCalls],
    ) -> None:
        self._call = call
        self._replica = replica

    async def send(self, frame: bytes) -> bool:
        """Send a serialised frame; False if the call has ended, and reading tells why."""
        try:
            await self._call.write(frame)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return False
        return True

    async def done_sending(self) -> None:
        """Say that no tile follows."""
        if not self._call.done():
            await self._call.done_writing()

    async def admitted(self) -> Admission:
        """The first message."""
        response = await next_message(self._call, self._replica)
        if response is None or not response.HasField("admitted"):
            raise InternalError(f"the {PEER} did not begin with `admitted`")
        admitted = response.admitted
        needed = tuple(Need(need.visual_id, need.first_tile) for need in admitted.needed)
        return Admission(admitted.prompt_tokens, admitted.cached_tokens, needed, admitted.weights_fingerprint)

    async def deltas(self) -> AsyncIterator[Delta | Outcome]:
        """The answer, piece by piece; an `Outcome` comes last."""
        while (response := await next_message(self._call, self._replica)) is not None:
            if response.HasField("delta"):
                yield Delta(response.delta.text, response.delta.choice, response.delta)
            elif response.HasField("result"):
                yield _outcome(response.result)


def _prompt_messages(prompt: Prompt, layouts: Mapping[Media, Layout]) -> list[llm_service_pb2.PromptMessage]:
    """The prompt as the language tier reads it: layouts in place of media."""
    return [_prompt_message(message, layouts) for message in (*prompt.history, *prompt.messages)]


def _prompt_message(message: Message, layouts: Mapping[Media, Layout]) -> llm_service_pb2.PromptMessage:
    parts = [
        llm_service_pb2.PromptPart(text=part.text)
        if isinstance(part, Text)
        else llm_service_pb2.PromptPart(visual=layout_to_proto(layouts[part]))
        for part in message.parts
    ]
    return llm_service_pb2.PromptMessage(role=role_number(message.role), parts=parts)


def _outcome(result: llm_service_pb2.GenerateResult) -> Outcome:
    usage, timings = result.usage, result.timings
    return Outcome(
        finish_reason=_finish_reason(result.finish_reason),
        usage=Usage(usage.prompt_tokens, usage.visual_tokens, usage.cached_tokens, usage.completion_tokens),
        timings=Timings(timings.queue_ms, timings.prefill_ms, timings.decode_ms, timings.tile_wait_ms),
        choices=tuple(map(_choice_end, result.choices)),
        replay_bundle=result.replay_bundle if result.HasField("replay_bundle") else None,
    )


def _choice_end(choice: llm_service_pb2.ChoiceResult) -> ChoiceEnd:
    return ChoiceEnd(
        finish_reason=_finish_reason(choice.finish_reason),
        stop_match=choice.stop_match if choice.HasField("stop_match") else None,
        completion_tokens=choice.completion_tokens,
    )


def _finish_reason(reason: llm_service_pb2.FinishReason.ValueType) -> FinishReason:
    if reason not in _FINISH_REASONS:
        raise InternalError(f"the {PEER} did not say why the answer ended")
    return _FINISH_REASONS[reason]
