"""The fields that chat completions and responses have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.http.json_object import JsonObject
from gateway.http.sampling import field_names, read_form, read_max_tokens, read_numbers
from internvl.errors import InvalidField
from internvl.v1 import llm_service_pb2

NOT_OFFERED = "is not offered by this server"
MAX_TOP_LOGPROBS = 20

# These change nothing about an answer of this server.
_IGNORED = (
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "parallel_tool_calls",
)


@dataclass(frozen=True, slots=True)
class Generation:
    """How to answer.

    Attributes:
        sampling: how to choose tokens, and the form of the answer.
        fields: what the client calls single fields of it.
    """

    sampling: llm_service_pb2.SamplingParams
    fields: Mapping[str, str]


def read_model(
    request: JsonObject, *, refused: Sequence[str], tool_choices: Sequence[str], ignored: Sequence[str] = ()
) -> str:
    """Which model is asked, once all that is not offered was refused.

    Args:
        request: what was asked.
        refused: fields that are refused by name.
        tool_choices: fields that may say no more than that no tool is called.
        ignored: fields that change nothing, beside those of every request.

    Raises:
        InvalidField: names the first field that cannot be used.
    """
    model = request.required_text("model")
    request.ignore(*_IGNORED, *ignored)
    request.refuse(dict.fromkeys(refused, NOT_OFFERED))
    for choice in tool_choices:
        if request.take(choice) not in (None, "none", "auto"):
            raise InvalidField(choice, f"must be none or auto: calling tools {NOT_OFFERED}")
    return model


def read_generation(
    request: JsonObject, form: JsonObject | None, *, max_tokens: tuple[str, ...], nested_schema: bool
) -> Generation:
    """How to answer.

    Args:
        request: what was asked.
        form: the form that the answer must have, as for `read_form`.
        max_tokens: names of the most tokens of the answer.
        nested_schema: whether a schema of `form` stands in an object of its own.

    Raises:
        InvalidField: names the first field that cannot be used.
    """
    sampling = llm_service_pb2.SamplingParams()
    read_numbers(request, sampling)
    fields = dict(field_names())
    fields |= read_max_tokens(request, sampling, max_tokens)
    fields |= read_form(form, sampling, nested=nested_schema)
    return Generation(sampling, fields)
