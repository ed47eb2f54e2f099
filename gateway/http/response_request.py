"""A request for a response (`/v1/responses`), read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from gateway.http.common_fields import MAX_TOP_LOGPROBS, NOT_OFFERED, read_generation, read_model
from gateway.http.errors import UnsupportedField
from gateway.http.field_names import FieldNames, MessageNames
from gateway.http.json_object import JsonObject
from gateway.http.messages import MEMBER_NAMES, ReadMessage, ReadMessages, ReadPart, read_messages
from gateway.wire import RequestLimits
from internvl.errors import InvalidField
from internvl.v1 import chat_service_pb2, content_pb2, llm_service_pb2

_LOGPROBS = "message.output_text.logprobs"

_ECHOED = ("temperature", "top_p", "max_output_tokens", "top_logprobs", "text")
_REFUSED = (
    "tools",
    "conversation",
    "prompt",
    "reasoning",
    "max_tool_calls",
    "context_management",
    "moderation",
)


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """What was asked.

    Attributes:
        model: which model.
        system: instructions; None for the model's own.
        messages: what is new.
        previous: the response that this one goes on behind.
        store: whether it is kept.
        stream: whether the answer is wanted while it comes to be.
        background: whether it goes on without its client.
        logprobs: whether log-probabilities are wanted.
        sampling: how to choose tokens.
        echo: fields that the response repeats.
        fields: what the client calls single fields.
    """

    model: str
    system: ReadMessage | None
    messages: ReadMessages
    previous: str | None
    store: bool
    stream: bool
    background: bool
    logprobs: bool
    sampling: llm_service_pb2.SamplingParams
    echo: Mapping[str, Any]
    fields: Mapping[str, str]

    @property
    def system_text(self) -> str | None:
        """The instructions as one text."""
        return None if self.system is None else "".join(part.text for part in self.system.parts)

    def names(self, history: int, *, stored: bool) -> FieldNames:
        """What the client calls the fields of `to_proto`, with that many messages of history in it."""
        opening = [] if self.system is None or stored else [self.system.names()]
        earlier = [MessageNames("previous_response_id", ())] * history
        new = [message.names() for message in self.messages.messages]
        return FieldNames(
            {
                "messages": "input",
                "system_text": "instructions",
                "idempotency_key": "Idempotency-Key",
                **self.fields,
            },
            [*opening, *earlier, *new],
            MEMBER_NAMES,
        )

    def to_proto(
        self,
        request_id: str,
        history: Sequence[content_pb2.Message],
        conversation_id: str | None,
        idempotency_key: str | None,
    ) -> chat_service_pb2.ChatRequest:
        """The turn; its media must have been stored.

        Args:
            request_id: its name in logs.
            history: what was said before.
            conversation_id: the conversation that keeps it, which has the instructions already; None to keep
                nothing.
            idempotency_key: of the turn, if it has one.
        """
        opening = [] if self.system is None or conversation_id else [self.system.to_proto()]
        new = [message.to_proto() for message in self.messages.messages]
        return chat_service_pb2.ChatRequest(
            messages=[*opening, *history, *new],
            conversation_id=conversation_id,
            sampling=self.sampling,
            request_id=request_id,
            idempotency_key=idempotency_key,
        )


def read_response_request(json: dict[str, Any], limits: RequestLimits) -> ResponseRequest:
    """Check a request and take it apart.

    Raises:
        InvalidField: names the first field that cannot be used.
    """
    request = JsonObject(json)
    model = read_model(request, refused=_REFUSED, tool_choices=("tool_choice",))
    if request.take("truncation") not in (None, "disabled"):
        raise InvalidField("truncation", "must be disabled: what does not fit is refused")
    instructions = request.text("instructions")
    messages = _read_input(request, limits)
    # Copied, because reading takes it apart.
    echo = {name: deepcopy(json.get(name)) for name in _ECHOED}
    generation = read_generation(
        request, _read_form(request), max_tokens=("max_output_tokens",), nested_schema=False
    )
    logprobs = _read_logprobs(request, generation.sampling)
    store = request.flag("store")
    background = request.flag("background") or False
    stream = request.flag("stream") or False
    if background and store is False:
        raise InvalidField("background", "goes on without its client, so it must be stored")
    if background and stream:
        raise UnsupportedField(
            "stream", f"together with background {NOT_OFFERED}; ask for the response later"
        )
    metadata = request.object("metadata")
    previous = request.text("previous_response_id")
    options = request.object("stream_options")
    if options is not None:
        options.ignore("include_obfuscation")
        options.done()
    request.done()
    return ResponseRequest(
        model=model,
        system=_system(instructions, messages.take_system()),
        messages=messages,
        previous=previous,
        store=store is not False,
        stream=stream,
        background=background,
        logprobs=logprobs,
        sampling=generation.sampling,
        echo={**echo, "metadata": metadata.rest() if metadata else {}},
        fields=generation.fields,
    )


def _read_input(request: JsonObject, limits: RequestLimits) -> ReadMessages:
    value = request.take("input")
    if isinstance(value, str):
        return ReadMessages([ReadMessage("input", content_pb2.ROLE_USER, [ReadPart("input", value)])])
    if not isinstance(value, list) or not value:
        raise InvalidField("input", "must be a string or a list of messages")
    if len(value) > limits.max_messages:
        raise InvalidField("input", f"at most {limits.max_messages} items, got {len(value)}")
    for number, item in enumerate(value):
        if isinstance(item, dict) and item.get("type") not in (None, "message"):
            raise UnsupportedField(f"input[{number}].type", f"any other item than message {NOT_OFFERED}")
    return read_messages(value, "input", limits)


def _system(instructions: str | None, said: ReadMessage | None) -> ReadMessage | None:
    """Instructions, and what the input begins with if that is a system message: one text."""
    if instructions is None:
        return said
    parts = [ReadPart("instructions", instructions)]
    if said is not None:
        parts += [ReadPart("instructions", "\n"), *said.parts]
    return ReadMessage("instructions", content_pb2.ROLE_SYSTEM, parts)


def _read_form(request: JsonObject) -> JsonObject | None:
    text = request.object("text")
    if text is None:
        return None
    form = text.object("format")
    text.refuse({"verbosity": NOT_OFFERED})
    text.done()
    return form


def _read_logprobs(request: JsonObject, sampling: llm_service_pb2.SamplingParams) -> bool:
    include = request.items("include", most=16) or []
    for number, name in enumerate(include):
        if name not in (_LOGPROBS, "reasoning.encrypted_content"):
            raise UnsupportedField(f"include[{number}]", f"any other than {_LOGPROBS} {NOT_OFFERED}")
    top = request.integer("top_logprobs", most=MAX_TOP_LOGPROBS)
    wanted = _LOGPROBS in include or bool(top)
    if wanted:
        sampling.logprobs = top or 0
    return wanted
