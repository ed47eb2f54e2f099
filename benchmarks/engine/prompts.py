"""Conversations about one picture as requests of the engine, by the service's own template and tokenizer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from benchmarks.engine.visuals import Visual
from internvl.model_config import InternVLConfig
from llm_service.engine.request import Request, SamplingParams, TileKey, VisualSlot
from llm_service.loading import LoadedModel
from llm_service.text.content import ChatMessage, ImagePart, Role, TextPart
from llm_service.text.layout import PromptOptions
from llm_service.text.prompt import Prompt, build_prompt

_NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Question:
    """One turn to be answered.

    Attributes:
        visual: shown with the first turn.
        text: what is asked now.
        earlier: questions and answers before it.
    """

    visual: Visual
    text: str
    earlier: tuple[tuple[str, str], ...] = ()

    def then(self, answer: str, text: str) -> Question:
        """The next turn of the conversation, after this answer."""
        return Question(self.visual, text, (*self.earlier, (self.text, answer)))


class PromptWriter:
    """Makes requests for one model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def requests(
        self, questions: Iterable[Question], sampling: SamplingParams, scope: str = ""
    ) -> list[tuple[Request, Visual]]:
        """A request for each question, and what is to be sent for it."""
        return [(self.request(each, sampling, scope), each.visual) for each in questions]

    def request(self, question: Question, sampling: SamplingParams, scope: str = "") -> Request:
        """A new request: engines tell them apart by identity.

        Args:
            scope: requests of different scopes share no cached keys and values.
        """
        prompt = self._prompt(question)
        return Request(
            request_id=f"bench-{next(_NUMBERS)}",
            prompt_ids=np.array(prompt.token_ids, np.int64),
            sampling=sampling,
            slots=tuple(_slots(prompt, question.visual.tokens_per_tile)),
            opened=time.monotonic(),
            cache_scope=scope,
        )

    def natural(self, most: int = 64) -> SamplingParams:
        """Greedy, until the model ends the answer or it has `most` tokens."""
        return SamplingParams(max_tokens=most, stop_ids=self._model.stop_ids)

    def exactly(self, tokens: int) -> SamplingParams:
        """Greedy, and as long as asked for: whatever would end the answer is held off."""
        return SamplingParams(max_tokens=tokens, min_tokens=tokens, stop_ids=self._model.stop_ids)

    def _prompt(self, question: Question) -> Prompt:
        tokens_per_tile = question.visual.tokens_per_tile
        config = _with_tiles_of(self._model.config, tokens_per_tile)
        return build_prompt(list(_messages(question)), PromptOptions(), self._model.tokenizer, config)


def _messages(question: Question) -> Iterator[ChatMessage]:
    picture = ImagePart(question.visual.visual_id, len(question.visual.tiles))
    asked: Sequence[str] = [*(text for text, _ in question.earlier), question.text]
    for number, text in enumerate(asked):
        shown = (picture,) if number == 0 else ()
        yield ChatMessage(Role.USER, (*shown, TextPart(text)))
        if number < len(question.earlier):
            yield ChatMessage(Role.ASSISTANT, (TextPart(question.earlier[number][1]),))


def _slots(prompt: Prompt, tokens_per_tile: int) -> Iterator[VisualSlot]:
    for slot in prompt.visual_slots:
        for number in range(slot.picture.tiles):
            offset = slot.start + number * tokens_per_tile
            yield VisualSlot(offset, tokens_per_tile, TileKey(slot.picture.visual_id, number))


def _with_tiles_of(config: InternVLConfig, tokens_per_tile: int) -> InternVLConfig:
    """The same model, had its tiles so many visual tokens; the layout of a prompt asks for nothing else."""
    side = round(math.sqrt(tokens_per_tile) / config.downsample_ratio)
    return replace(config, force_image_size=side * config.vision.patch_size)
