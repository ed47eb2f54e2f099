"""From what the engine says to messages on the wire."""

from __future__ import annotations

from internvl.tensors import DTYPES
from internvl.v1 import llm_service_pb2, tensor_pb2
from llm_service.engine.events import Admitted, Delta, Finished, FinishReason
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request
from llm_service.loading import LoadedModel

_REASONS = {
    FinishReason.STOP: llm_service_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: llm_service_pb2.FINISH_REASON_LENGTH,
}


def generate_response(
    event: Admitted | Delta | Finished, request: Request
) -> llm_service_pb2.GenerateResponse:
    """One message of a Generate stream."""
    match event:
        case Admitted():
            return llm_service_pb2.GenerateResponse(admitted=_admitted(event, request))
        case Delta(text, token_ids):
            delta = llm_service_pb2.TokenDelta(text=text, token_ids=token_ids)
            return llm_service_pb2.GenerateResponse(delta=delta)
        case Finished():
            return llm_service_pb2.GenerateResponse(result=_result(event))


def model_info(
    model: LoadedModel, limits: EngineLimits, cache_dtype: str
) -> llm_service_pb2.ModelInfoResponse:
    """What is loaded; `cache_dtype` by its numpy name."""
    config = model.config
    types = {dtype.name: data_type for data_type, dtype in DTYPES.items()}
    return llm_service_pb2.ModelInfoResponse(
        model_name=model.name,
        weights_fingerprint=model.fingerprint,
        context_limit=limits.context_limit,
        vocab_size=config.llm.vocab_size,
        hidden_size=config.llm.hidden_size,
        tokens_per_tile=config.tokens_per_tile,
        template=config.template,
        stop_token_ids=sorted(model.stop_ids),
        cache_dtype=types.get(cache_dtype, tensor_pb2.DATA_TYPE_UNSPECIFIED),
    )


def _admitted(event: Admitted, request: Request) -> llm_service_pb2.Admitted:
    return llm_service_pb2.Admitted(
        request_id=request.request_id,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=event.cached_tokens,
        needed=[
            llm_service_pb2.VisualNeed(visual_id=need.visual_id, first_tile=need.first_tile)
            for need in event.needed
        ],
    )


def _result(event: Finished) -> llm_service_pb2.GenerateResult:
    usage, timings = event.usage, event.timings
    return llm_service_pb2.GenerateResult(
        finish_reason=_REASONS[event.reason],
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
        stop_match=event.stop_match,
    )
