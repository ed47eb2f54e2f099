"""From what the engine says to messages on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from internvl.tensors import DTYPES
from internvl.v1 import llm_service_pb2, tensor_pb2
from kernels.paged import KvDtype
from llm_service.config import KV_DTYPES, EngineConfig
from llm_service.engine.estimate import Estimate
from llm_service.engine.events import Admitted, Delta, Finished, FinishReason, TokenLogprob
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request, VisualNeed
from llm_service.loading import LoadedModel
from llm_service.requests import Opened
from llm_service.text.pieces import SKIPPED, Piece

_REASONS = {
    FinishReason.STOP: llm_service_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: llm_service_pb2.FINISH_REASON_LENGTH,
}


class ResponseWriter:
    """Writes the messages of Generate streams for one tokenizer."""

    def __init__(
        self, pieces: Sequence[Piece], fingerprint: str, limits: EngineLimits, block_bytes: int
    ) -> None:
        """Prepare for one model and its engine.

        Args:
            pieces: of the vocabulary, by token id.
            fingerprint: of the weights that answer.
            limits: of the engine.
            block_bytes: memory of one block of the key-value cache.
        """
        self._pieces = pieces
        self._fingerprint = fingerprint
        self._limits = limits
        self._block_bytes = block_bytes

    def count(self, request: Request, estimate: Estimate) -> llm_service_pb2.CountTokensResponse:
        """What a prompt would take."""
        return llm_service_pb2.CountTokensResponse(
            prompt_tokens=request.prompt_tokens,
            visual_tokens=request.visual_tokens,
            context_limit=self._limits.context_limit,
            cached_tokens=min(estimate.cached_tokens, request.prompt_tokens),
            needed=_needs([need for need in estimate.needed if need.visual_id]),
            kv_bytes=estimate.blocks * self._block_bytes,
            kv_budget_bytes=self._limits.kv_blocks * self._block_bytes,
            expected_wait_ms=estimate.wait_s * 1000,
        )

    async def write(
        self, event: Admitted | Delta | Finished, opened: Opened
    ) -> llm_service_pb2.GenerateResponse:
        """One message of a stream; the last one with the replay bundle, if it is wanted."""
        response = self._response(event, opened.request)
        if opened.recorder is not None:
            opened.recorder.note(response)
            if isinstance(event, Finished):
                # In a thread, because long prompts take long and everybody's streams live on this event loop.
                response.result.replay_bundle = await asyncio.to_thread(opened.recorder.to_json)
        return response

    def _response(
        self, event: Admitted | Delta | Finished, request: Request
    ) -> llm_service_pb2.GenerateResponse:
        match event:
            case Admitted():
                return llm_service_pb2.GenerateResponse(admitted=self._admitted(event, request))
            case Delta():
                return llm_service_pb2.GenerateResponse(delta=self._delta(event))
            case Finished():
                return llm_service_pb2.GenerateResponse(result=_result(event))

    def _admitted(self, event: Admitted, request: Request) -> llm_service_pb2.Admitted:
        return llm_service_pb2.Admitted(
            request_id=request.request_id,
            prompt_tokens=request.prompt_tokens,
            cached_tokens=event.cached_tokens,
            needed=_needs(event.needed),
            weights_fingerprint=self._fingerprint,
        )

    def _delta(self, event: Delta) -> llm_service_pb2.TokenDelta:
        return llm_service_pb2.TokenDelta(
            text=event.text,
            token_ids=event.token_ids,
            choice=event.choice,
            logprobs=[
                self._logprob(each.chosen, [self._logprob(other) for other in each.top])
                for each in event.logprobs
            ],
        )

    def _logprob(
        self, token: TokenLogprob, top: Sequence[llm_service_pb2.TokenLogprob] = ()
    ) -> llm_service_pb2.TokenLogprob:
        token_id = token.token_id
        piece = self._pieces[token_id] if token_id < len(self._pieces) else SKIPPED  # padding of the table
        return llm_service_pb2.TokenLogprob(
            token_id=token_id, logprob=token.logprob, token=piece.own_bytes, top=top
        )


def model_info(
    model: LoadedModel, limits: EngineLimits, engine: EngineConfig, kv_dtype: KvDtype
) -> llm_service_pb2.ModelInfoResponse:
    """What is loaded, and how its engine is set."""
    types = {dtype.name: data_type for data_type, dtype in DTYPES.items()}
    names = {dtype: name for name, dtype in KV_DTYPES.items()}
    return llm_service_pb2.ModelInfoResponse(
        model_name=model.name,
        weights_fingerprint=model.fingerprint,
        context_limit=limits.context_limit,
        vocab_size=model.config.llm.vocab_size,
        hidden_size=model.config.llm.hidden_size,
        tokens_per_tile=model.config.tokens_per_tile,
        template=model.config.template,
        stop_token_ids=sorted(model.stop_ids),
        cache_dtype=types.get(kv_dtype.value, tensor_pb2.DATA_TYPE_UNSPECIFIED),
        kv_dtype=names[kv_dtype],
        kv_block_size=limits.kv_block_size,
        kv_blocks=limits.kv_blocks,
        prefix_cache=engine.prefix_cache,
        speculation=engine.speculate,
        batch_invariant=engine.batch_invariant,
        max_running=limits.max_running,
    )


def _needs(needed: Sequence[VisualNeed]) -> list[llm_service_pb2.VisualNeed]:
    return [
        llm_service_pb2.VisualNeed(visual_id=need.visual_id, first_tile=need.first_tile) for need in needed
    ]


def _result(event: Finished) -> llm_service_pb2.GenerateResult:
    usage, timings = event.usage, event.timings
    choices = [
        llm_service_pb2.ChoiceResult(
            finish_reason=_REASONS[end.reason],
            stop_match=end.stop_match,
            completion_tokens=end.completion_tokens,
        )
        for end in event.choices
    ]
    return llm_service_pb2.GenerateResult(
        finish_reason=choices[0].finish_reason,
        usage=llm_service_pb2.Usage(
            prompt_tokens=usage.prompt_tokens,
            visual_tokens=usage.visual_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        ),
        timings=llm_service_pb2.Timings(
            queue_ms=timings.queue_s * 1000,
            prefill_ms=timings.prefill_s * 1000,
            decode_ms=timings.decode_s * 1000,
            tile_wait_ms=timings.tile_wait_s * 1000,
        ),
        stop_match=event.choices[0].stop_match,
        choices=choices,
    )
