"""A request for a chat completion, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.http.common_fields import MAX_TOP_LOGPROBS, read_generation, read_model
from gateway.http.field_names import FieldNames
from gateway.http.json_object import JsonObject
from gateway.http.messages import MEMBER_NAMES, ReadMessages, read_messages
from gateway.wire import RequestLimits
from internvl.errors import InvalidField
from internvl.v1 import chat_service_pb2, llm_service_pb2

_MAX_CHOICES = 16

_IGNORED = ("metadata", "store")
_REFUSED = (
    "tools",
    "functions",
    "audio",
    "prediction",
    "web_search_options",
    "reasoning_effort",
    "verbosity",
    "moderation",
    "suffix",
    "echo",
    "best_of",
)


@dataclass(frozen=True, slots=True)
class ChatCompletionRequest:
    """What was asked.

    Attributes:
        model: which model.
        messages: what was said.
        stream: whether the answer is wanted while it comes to be.
        include_usage: whether a stream ends with what was counted.
        logprobs: whether log-probabilities are wanted.
        sampling: how to choose tokens.
        prompt: how to lay out the prompt.
        fields: what the client calls single fields.
    """

    model: str
    messages: ReadMessages
    stream: bool
    include_usage: bool
    logprobs: bool
    sampling: llm_service_pb2.SamplingParams
    prompt: llm_service_pb2.PromptOptions
    fields: Mapping[str, str]

    @property
    def names(self) -> FieldNames:
        """What the client calls the fields of `to_proto`."""
        return FieldNames(
            {"messages": "messages", "idempotency_key": "Idempotency-Key", **self.fields},
            [message.names() for message in self.messages.messages],
            MEMBER_NAMES,
        )

    def to_proto(self, request_id: str, idempotency_key: str | None) -> chat_service_pb2.ChatRequest:
        """The turn; its media must have been stored."""
        return chat_service_pb2.ChatRequest(
            messages=[message.to_proto() for message in self.messages.messages],
            sampling=self.sampling,
            prompt=self.prompt,
            request_id=request_id,
            idempotency_key=idempotency_key,
        )


def read_chat_request(json: dict[str, Any], limits: RequestLimits) -> ChatCompletionRequest:
    """Check a request and take it apart.

    Raises:
        InvalidField: names the first field that cannot be used.
    """
    request = JsonObject(json)
    model = read_model(
        request, refused=_REFUSED, tool_choices=("tool_choice", "function_call"), ignored=_IGNORED
    )
    if request.take("modalities") not in (None, ["text"]):
        raise InvalidField("modalities", 'must be ["text"]: other output is not offered by this server')
    messages = request.items("messages", most=limits.max_messages)
    if not messages:
        raise InvalidField("messages", "at least one message is required")
    stream = request.flag("stream") or False
    include_usage = _read_stream_options(request, stream)
    generation = read_generation(
        request,
        request.object("response_format"),
        max_tokens=("max_completion_tokens", "max_tokens"),
        nested_schema=True,
    )
    sampling = generation.sampling
    choices = request.integer("n", least=1, most=_MAX_CHOICES)
    if choices is not None:
        sampling.n = choices
    logprobs = _read_logprobs(request, sampling)
    visuals_first = request.flag("visuals_first")
    request.done()
    return ChatCompletionRequest(
        model=model,
        messages=read_messages(messages, "messages", limits),
        stream=stream,
        include_usage=include_usage,
        logprobs=logprobs,
        sampling=sampling,
        prompt=llm_service_pb2.PromptOptions(visuals_first=visuals_first),
        fields=generation.fields,
    )


def _read_stream_options(request: JsonObject, stream: bool) -> bool:
    options = request.object("stream_options")
    if options is None:
        return False
    if not stream:
        raise InvalidField("stream_options", "is for requests with stream set to true")
    include_usage = options.flag("include_usage") or False
    options.ignore("include_obfuscation")
    options.done()
    return include_usage


def _read_logprobs(request: JsonObject, sampling: llm_service_pb2.SamplingParams) -> bool:
    wanted = request.flag("logprobs") or False
    top = request.integer("top_logprobs", most=MAX_TOP_LOGPROBS)
    if top is not None and not wanted:
        raise InvalidField("top_logprobs", "is for requests with logprobs set to true")
    if wanted:
        sampling.logprobs = top or 0
    return wanted
