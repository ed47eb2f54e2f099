"""From messages on the wire to requests of the engine."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from internvl.errors import ContextTooLong, InvalidField
from internvl.v1 import llm_service_pb2, tensor_pb2
from llm_service.engine.events import Admitted
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot
from llm_service.grammar_fields import read_grammar
from llm_service.guided import GrammarCompiler
from llm_service.loading import LoadedModel
from llm_service.prompt_fields import ConversationReader
from llm_service.replay_bundle import MAX_BUNDLE_TOKENS, BundleRecorder, EngineFacts
from llm_service.sampling_fields import DEFAULT_MAX_TOKENS, Room, read_delivered, read_sampling
from llm_service.text.content import ChatMessage
from llm_service.text.layout import PromptOptions
from llm_service.text.prompt import Prompt, build_prompt
from llm_service.tiles import TileIntake

MAX_PRIORITY = 10
MAX_SALT_CHARS = 128

_REQUEST_ID = re.compile(r"[\w.:/-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Opened:
    """A checked request.

    Attributes:
        dtypes: the element type that its tiles must have, by `visual_id`.
        recorder: takes down the answer, if the caller wants a replay bundle.
    """

    request: Request
    dtypes: Mapping[str, tensor_pb2.DataType.ValueType]
    recorder: BundleRecorder | None


class RequestReader:
    """Reads requests for one model. Safe to share between threads."""

    def __init__(self, model: LoadedModel, limits: EngineLimits, engine: EngineFacts) -> None:
        """Bind a model and its engine.

        Args:
            engine: what replay bundles say of the engine.
        """
        self._model = model
        self._limits = limits
        self._grammars = GrammarCompiler(model.tokenizer)
        self._engine = engine
        self._longest_piece = max(len(piece.text) for piece in model.tokenizer.pieces)

    def read_open(
        self, message: llm_service_pb2.GenerateOpen, opened: float, deadline: float | None
    ) -> Opened:
        """Check and tokenize what a Generate stream opens with. Takes time for long texts.

        Args:
            opened: when it came, on the clock of `time.monotonic`.
            deadline: when its caller stops waiting, on the same clock.

        Raises:
            InvalidField: naming the field at fault.
            ContextTooLong: the prompt leaves no room for an answer.
        """
        request_id = _request_id(message)
        priority, cache_scope = _priority(message), _cache_salt(message, "open.cache_salt")
        conversation = self._reader(embeddings_follow=True).read(message.messages, "open.messages")
        prompt = self._prompt(conversation.messages, message.prompt, "open.")
        config = self._model.config
        sampling = self._sampling(message.sampling, len(prompt.token_ids))
        request = Request(
            request_id=request_id,
            prompt_ids=np.array(prompt.token_ids, np.int64),
            sampling=sampling,
            slots=tuple(_tile_slots(prompt, config.tokens_per_tile)),
            opened=opened,
            deadline=deadline,
            priority=priority,
            delivered_ids=read_delivered(message.delivered_token_ids, sampling, config.llm.vocab_size),
            cache_scope=cache_scope,
        )
        return Opened(request, conversation.dtypes, self._recorder(message, request))

    def tile_intake(self, opened: Opened, admitted: Admitted) -> TileIntake:
        """The check that the tiles of a request must pass."""
        config = self._model.config
        shape = (config.tokens_per_tile, config.llm.hidden_size)
        return TileIntake(admitted.needed, shape, opened.dtypes)

    def read_count(self, message: llm_service_pb2.CountTokensRequest) -> Request:
        """The request that would answer a prompt, to count and to estimate. Takes time for long texts.

        Items without a `visual_id` stand for embeddings that nobody has.

        Raises:
            InvalidField: naming the field at fault.
            ContextTooLong: more than the model could ever hold.
        """
        conversation = self._reader(embeddings_follow=False).read(message.messages, "messages")
        prompt = self._prompt(conversation.messages, message.prompt, "")
        room = max(self._limits.context_limit - len(prompt.token_ids), 0)
        most = message.max_tokens if message.HasField("max_tokens") else min(DEFAULT_MAX_TOKENS, room)
        return Request(
            request_id="",
            prompt_ids=np.array(prompt.token_ids, np.int64),
            sampling=SamplingParams(max_tokens=most),
            slots=tuple(_tile_slots(prompt, self._model.config.tokens_per_tile)),
            cache_scope=_cache_salt(message, "cache_salt"),
        )

    def _reader(self, *, embeddings_follow: bool) -> ConversationReader:
        return ConversationReader(
            self._model.config, self._longest_piece, embeddings_follow=embeddings_follow
        )

    def _prompt(
        self, messages: Sequence[ChatMessage], options: llm_service_pb2.PromptOptions, parent: str
    ) -> Prompt:
        defaults = PromptOptions()
        visuals_first = options.visuals_first if options.HasField("visuals_first") else defaults.visuals_first
        try:
            return build_prompt(
                messages,
                PromptOptions(visuals_first=visuals_first),
                self._model.tokenizer,
                self._model.config,
            )
        except InvalidField as error:  # the text package does not know where in a request its messages lie
            raise InvalidField(f"{parent}{error.field}", error.problem, metadata=error.metadata) from None

    def _sampling(self, message: llm_service_pb2.SamplingParams, prompt_tokens: int) -> SamplingParams:
        room = self._room(prompt_tokens)
        sampling = read_sampling(message, self._model.config.llm.vocab_size, self._model.stop_ids, room)
        if not message.HasField("grammar"):
            return sampling
        return replace(sampling, grammar=read_grammar(message.grammar, self._grammars))

    def _recorder(self, message: llm_service_pb2.GenerateOpen, request: Request) -> BundleRecorder | None:
        if not message.want_replay_bundle:
            return None
        tokens = request.prompt_tokens + request.sampling.n * request.sampling.max_tokens
        if tokens > MAX_BUNDLE_TOKENS:
            raise InvalidField(
                "open.want_replay_bundle",
                f"prompt and answers may reach {tokens} tokens; a bundle holds at most {MAX_BUNDLE_TOKENS}",
                metadata={"tokens": tokens, "limit": MAX_BUNDLE_TOKENS},
            )
        return BundleRecorder(request, message, self._engine)

    def _room(self, prompt_tokens: int) -> Room:
        limit = self._limits.context_limit
        if prompt_tokens >= limit:
            raise ContextTooLong(
                "open.messages",
                f"the prompt has {prompt_tokens} tokens; the limit is {limit}, prompt and answer together",
                metadata={"prompt_tokens": prompt_tokens, "context_limit": limit},
            )
        return Room(limit - prompt_tokens, self._limits.kv_budget_tokens - prompt_tokens)


def _request_id(message: llm_service_pb2.GenerateOpen) -> str:
    if not message.HasField("request_id"):
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(message.request_id):
        raise InvalidField("open.request_id", "must be 1 to 128 of the characters A-Z a-z 0-9 _ . : / -")
    return message.request_id


def _priority(message: llm_service_pb2.GenerateOpen) -> int:
    if abs(message.priority) > MAX_PRIORITY:
        raise InvalidField(
            "open.priority", f"must be {-MAX_PRIORITY} to {MAX_PRIORITY}, got {message.priority}"
        )
    return message.priority


def _cache_salt(
    message: llm_service_pb2.GenerateOpen | llm_service_pb2.CountTokensRequest, field: str
) -> str:
    if message.HasField("cache_salt") and not 1 <= len(message.cache_salt) <= MAX_SALT_CHARS:
        raise InvalidField(
            field, f"must have 1 to {MAX_SALT_CHARS} characters, got {len(message.cache_salt)}"
        )
    return message.cache_salt


def _tile_slots(prompt: Prompt, tokens_per_tile: int) -> Iterator[VisualSlot]:
    """The slots of a prompt, tile by tile."""
    for slot in prompt.visual_slots:
        picture = slot.picture
        for number in range(picture.tiles):
            yield VisualSlot(
                offset=slot.start + number * tokens_per_tile,
                length=tokens_per_tile,
                tile=TileKey(picture.visual_id, picture.first_tile + number),
            )
