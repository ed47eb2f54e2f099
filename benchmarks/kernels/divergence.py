"""How far the next-token probabilities of the embedded model move when its weights are kept in fewer bits.

Both tiers keep them so. Pictures and questions are held out; the answers are those of float32.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.engine.drawings import Drawing, drawings
from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.visuals import Visual
from benchmarks.report import Row
from internvl.checkpoint.weight_format import WeightFormat
from internvl.model_choice import ModelChoice
from kernels.paged import KvDtype
from llm_service.config import parse_config
from llm_service.engine.request import Request
from llm_service.loading import LoadedModel, open_device, open_model
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime
from llm_service.model.runner import ModelRunner
from vision_service.encoder import TileModel
from vision_service.loading import open_model as open_vision
from vision_service.preprocessing import cut_tiles, normalise
from vision_service.tiling import TilingOptions, plan_image

_PICTURES = 40
_MOST = 32  # tokens of an answer
_BLOCK = 8


def divergence_rows() -> Iterator[Row]:
    """Mean of KL(fp32 || format) over the tokens of the answers, and how often the likeliest one changes."""
    choice = parse_config([]).model
    model, drawn = open_model(choice), drawings(_PICTURES)
    reference = Formed(choice, model, WeightFormat.FLOAT32)
    answers = [reference.answer(drawing, model.stop_ids) for drawing in drawn]
    exact = reference.log_probabilities(drawn, answers)
    rounded = [form for form in WeightFormat if form is not WeightFormat.FLOAT32]
    for form in tqdm(rounded, desc="formats", leave=False):
        logs = Formed(choice, model, form).log_probabilities(drawn, answers)
        divergence = float((np.exp(exact) * (exact - logs)).sum(-1).mean())
        changed = float((exact.argmax(-1) != logs.argmax(-1)).mean())
        yield Row(f"kl_{form.value}", divergence, "nats", f"fp32, mean of {len(exact)} tokens")
        yield Row(f"changed_{form.value}", changed, "share", "likeliest token is not that of fp32")


class Formed:
    """Both tiers of the embedded model with their weights in one format."""

    def __init__(self, choice: ModelChoice, model: LoadedModel, form: WeightFormat) -> None:
        chosen = ModelChoice(choice.folder, threads=choice.threads, weights=form.value)
        vision = open_vision(chosen)
        self._tiling: TilingOptions = vision.tiling
        self._encoder: TileModel = vision.load_encoder("cpu", choice.threads)
        self._runner: ModelRunner = model.load_decoder(open_device(chosen, model.config))
        self._kv = KvDtype.FLOAT32 if form is WeightFormat.FLOAT32 else KvDtype.BFLOAT16
        self._writer = PromptWriter(model)

    def answer(self, drawing: Drawing, stop_ids: frozenset[int]) -> list[int]:
        """The likeliest tokens about a picture, one after the other."""
        request, visual = self._asked(drawing)
        tokens: list[int] = []
        while len(tokens) < _MOST and not (tokens and tokens[-1] in stop_ids):
            logits = self._logits(request, visual, tokens, wanted=1)
            tokens.append(int(logits[-1].argmax()))
        return tokens

    def log_probabilities(
        self, drawn: Sequence[Drawing], answers: Sequence[Sequence[int]]
    ) -> NDArray[np.float64]:
        """[tokens of all answers, vocabulary], each behind those before it."""
        logits = [
            self._logits(*self._asked(drawing), answer[:-1], wanted=len(answer))
            for drawing, answer in zip(drawn, answers, strict=True)
        ]
        shifted = np.concatenate(logits).astype(np.float64)
        shifted -= shifted.max(-1, keepdims=True)
        result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return result

    def _asked(self, drawing: Drawing) -> tuple[Request, Visual]:
        """The question for a caption, the picture encoded."""
        image = Image.open(io.BytesIO(drawing.png)).convert("RGB")
        grid = plan_image(image.width, image.height, self._tiling)
        tiles = self._encoder.encode(normalise(cut_tiles(image, grid, self._tiling.tile_size)))
        visual = Visual("picture", tuple(tiles))
        return self._writer.request(Question(visual, drawing.caption), self._writer.natural()), visual

    def _logits(
        self, request: Request, visual: Visual, answer: Sequence[int], wanted: int
    ) -> NDArray[np.float32]:
        ids = np.concatenate([request.prompt_ids, np.array(answer, np.int64)])
        spans = tuple(VisualSpan(slot.offset, visual.tiles[slot.tile.number]) for slot in request.slots)
        blocks = -(-len(ids) // _BLOCK)
        self._runner.open_cache(blocks, _BLOCK, self._kv)
        chunk = Chunk(ids, spans, 0, range(blocks), RopeRegime.SHORT, wanted)
        return self._runner.forward([chunk])[0]
