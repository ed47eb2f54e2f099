"""How to answer: the fields about sampling and form, as `SamplingParams`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.http.json_object import UINT32_MAX, JsonObject, real_number, whole_number
from internvl.errors import InvalidField
from internvl.v1 import llm_service_pb2

_UINT64 = 2**64
_MAX_BIASES = 1024
_MAX_STOPS = 16

_ANY_JSON_OBJECT = '{"type": "object"}'

# Of the same name here and in the contract.
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def read_numbers(request: JsonObject, sampling: llm_service_pb2.SamplingParams) -> None:
    """What both chat completions and responses take; the language tier knows the bounds."""
    for name in _NUMBERS:
        value = request.number(name)
        if value is not None:
            setattr(sampling, name, value)
    top_k = request.integer("top_k", least=-1)
    if top_k is not None:
        sampling.top_k = max(top_k, 0)  # elsewhere, -1 keeps all
    seed = request.integer("seed", least=-(2**63), most=_UINT64 - 1)
    if seed is not None:
        sampling.seed = seed % _UINT64
    _read_stops(request, sampling)
    min_tokens = request.integer("min_tokens")
    if min_tokens is not None:
        sampling.min_tokens = min_tokens
    for number, token in enumerate(request.items("stop_token_ids", most=_MAX_BIASES) or ()):
        sampling.stop_token_ids.append(whole_number(token, f"stop_token_ids[{number}]", 0, UINT32_MAX))
    _read_biases(request, sampling)


def read_max_tokens(
    request: JsonObject, sampling: llm_service_pb2.SamplingParams, names: tuple[str, ...]
) -> dict[str, str]:
    """The most tokens of the answer, under the first of these names that is there.

    Returns:
        What the client calls the field.
    """
    found = {name: request.integer(name) for name in names}
    for name, value in found.items():
        if value is not None:
            sampling.max_tokens = value
            return {"sampling.max_tokens": name}
    return {"sampling.max_tokens": names[0]}


def read_form(
    form: JsonObject | None, sampling: llm_service_pb2.SamplingParams, *, nested: bool
) -> dict[str, str]:
    """The form that the answer must have.

    Args:
        form: `response_format` of chat completions, or `text.format` of responses.
        sampling: takes it.
        nested: whether a schema stands in an object of its own, as in chat completions.

    Returns:
        What the client calls the field.
    """
    if form is None:
        return {}
    kind = form.one_of("type", ("text", "json_object", "json_schema"))
    where = form
    if kind is None:
        raise InvalidField(form.name_of("type"), "is required")
    if kind == "json_object":
        sampling.grammar.json_schema = _ANY_JSON_OBJECT
    elif kind == "json_schema":
        inner = form.object("json_schema") if nested else form
        if inner is None:
            raise InvalidField(form.name_of("json_schema"), "is required")
        where = inner
        schema = inner.take("schema")
        if not isinstance(schema, dict | bool):
            raise InvalidField(inner.name_of("schema"), "must be a JSON schema")
        inner.flag("strict")  # an answer always keeps to its schema
        inner.ignore("name", "description")
        inner.done()
        sampling.grammar.json_schema = json.dumps(schema)
    form.done()
    return {
        "sampling.grammar.json_schema": where.name_of("schema"),
        "sampling.grammar": form.path,
    }


def field_names() -> Mapping[str, str]:
    """What clients call the fields that have the same meaning here."""
    same = (*_NUMBERS, "top_k", "seed", "stop", "min_tokens", "stop_token_ids", "logit_bias", "n")
    stops = {f"sampling.stop[{number}]": f"stop[{number}]" for number in range(_MAX_STOPS)}
    return {**{f"sampling.{name}": name for name in same}, **stops, "sampling.logprobs": "top_logprobs"}


def _read_stops(request: JsonObject, sampling: llm_service_pb2.SamplingParams) -> None:
    stop = request.take("stop")
    if stop is None:
        return
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise InvalidField("stop", "must be a string or a list of strings")
    if len(stops) > _MAX_STOPS:
        raise InvalidField("stop", f"at most {_MAX_STOPS} texts, got {len(stops)}")
    sampling.stop.extend(stops)


def _read_biases(request: JsonObject, sampling: llm_service_pb2.SamplingParams) -> None:
    biases = request.take("logit_bias")
    if biases is None:
        return
    if not isinstance(biases, dict):
        raise InvalidField("logit_bias", "must be an object from token ids to numbers")
    if len(biases) > _MAX_BIASES:
        raise InvalidField("logit_bias", f"at most {_MAX_BIASES} tokens, got {len(biases)}")
    for token, bias in biases.items():
        if not token.isascii() or not token.isdecimal() or len(token) > 10 or int(token) > UINT32_MAX:
            raise InvalidField("logit_bias", "must have token ids, such as 42, for names")
        sampling.logit_bias[int(token)] = real_number(bias, "logit_bias")
