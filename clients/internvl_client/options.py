"""What can be said with a question. One place for both clients and for conversations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from internvl.v1 import llm_service_pb2
from internvl_client.content import Image, MediaSource, Message, Video
from internvl_client.errors import InvalidRequest


class LengthOptions(TypedDict, total=False):
    """How long the answer may be.

    max_tokens: most tokens to generate.
    """

    max_tokens: int


class SamplingOptions(LengthOptions, total=False):
    """How tokens are chosen. What is left out has the server's default: greedy, at most 1024 tokens.

    temperature: divides the logits, 0 to 2; 0 is greedy.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the likeliest tokens whose probabilities add up to this, above 0 to 1.
    min_p: keep tokens at least this likely relative to the likeliest, 0 to 1.
    repetition_penalty: divides the logits of tokens already seen, above 0 to 2.
    presence_penalty: subtracted from the logit of every token generated before, -2 to 2.
    frequency_penalty: subtracted once for each time the token was generated, -2 to 2.
    seed: of the random numbers.
    min_tokens: fewest tokens before the answer may end.
    stop: texts that end the answer and are not part of it.
    stop_token_ids: tokens that end the answer, beside the model's own.
    n: answers to generate, 1 to 16; `Answer.choices` holds them.
    logit_bias: what to add to the logits of these token ids, -100 to 100.
    logprobs: report how likely each token was, with so many of the likeliest in its place, 0 to 20.
    json_schema: the answer is JSON of this schema, given as a dict or as JSON.
    regex: the whole answer matches this regular expression.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    n: int
    logit_bias: Mapping[int, float]
    logprobs: int
    json_schema: Mapping[str, Any] | str
    regex: str


class MediaOptions(TypedDict, total=False):
    """What is shown with a question, and how long it may take.

    images: paths, bytes of files, PIL images, uploads, or `Image` with tiling options.
    videos: paths, bytes of files, uploads, or `Video` with sampling options.
    visuals_first: whether pictures go before the text of their message, whatever their order. Default: yes.
    timeout: seconds for the whole call. Default: the client's own.
    """

    images: Iterable[Image | MediaSource]
    videos: Iterable[Video | MediaSource]
    visuals_first: bool | None
    timeout: float | None


class ConversationOptions(TypedDict, total=False):
    """What a new conversation begins with.

    system: instructions. Default: those that the model was trained with.
    title: for people, at most 256 characters. Default: empty.
    time_to_live_s: how long the server keeps it after its last change, in seconds. Default and most: its own.
    """

    system: str | None
    title: str | None
    time_to_live_s: float | None


class SayPlanOptions(MediaOptions, LengthOptions, total=False):
    """What `Conversation.plan` takes beside the question.

    tile_budget: most tiles of all pictures and films of the question. Default: no bound but their own.
    """

    tile_budget: int


class PlanOptions(SayPlanOptions, total=False):
    """What `plan` takes beside the question.

    system: instructions. Default: those that the model was trained with.
    messages: a whole conversation in place of a question; the last message is the user's.
    """

    system: str | None
    messages: Sequence[Message] | None


class SayOptions(SayPlanOptions, SamplingOptions, total=False):
    """What `Conversation.say` takes beside the question.

    request_id: names the request in the server's logs. Default: made by the server.
    priority: goes before requests of lower priority, -10 to 10. Default: 0.
    resumable: whether the answer goes on when the connection is lost, and is read on by itself. Default: no.
    replay_bundle: whether the answer brings a file for `internvl replay`. It holds the prompt. Default: no.
    idempotency_key: names the turn. Asked again with the same key, the same answer comes, generated once.
    expected_version: refuses the turn if the conversation has another version. Only within a conversation.
    """

    request_id: str | None
    priority: int
    resumable: bool
    replay_bundle: bool
    idempotency_key: str | None
    expected_version: int | None


class ChatOptions(PlanOptions, SayOptions, total=False):
    """What `chat` takes beside the question."""


def check_names(
    options: SayOptions | SayPlanOptions | PlanOptions | ChatOptions | ConversationOptions, allowed: type
) -> None:
    """Refuse options that do not exist, as a plain signature would.

    Raises:
        TypeError: names the first.
    """
    for name in options:
        if name not in allowed.__annotations__:
            raise TypeError(f"got an unexpected option {name!r}")


def sampling_params(options: SayOptions | ChatOptions) -> llm_service_pb2.SamplingParams:
    """The sampling options in the form of the contract; the server checks their ranges.

    Raises:
        InvalidRequest: a value that the option's type cannot hold.
    """
    params = llm_service_pb2.SamplingParams()
    for name, value in options.items():
        if name not in SamplingOptions.__annotations__ or value is None:
            continue
        try:
            params.MergeFrom(_sampling_param(name, value))
        except (TypeError, ValueError) as error:
            raise _invalid(f"sampling.{name}", f"cannot be {value!r}") from error
    if options.get("json_schema") is not None and options.get("regex") is not None:
        raise _invalid("sampling.grammar", "json_schema and regex exclude each other")
    return params


def _sampling_param(name: str, value: Any) -> llm_service_pb2.SamplingParams:
    match name:
        case "json_schema":
            schema = value if isinstance(value, str) else json.dumps(value)
            return llm_service_pb2.SamplingParams(grammar=llm_service_pb2.Grammar(json_schema=schema))
        case "regex":
            return llm_service_pb2.SamplingParams(grammar=llm_service_pb2.Grammar(regex=value))
        case _ if isinstance(value, (str, bytes)):
            raise TypeError("a text would count as the list of its characters")
        case _:
            return llm_service_pb2.SamplingParams(**{name: value})


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {problem}", reason="INVALID_FIELD", field=field)
