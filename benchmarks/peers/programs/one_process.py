"""This project's vision and engine in one process: `python -m benchmarks.peers.programs.one_process`.

What the split into services costs is the difference. Tiles are encoded first, then the prompt is computed.
Only pictures are asked: an engine alone is measured by `benchmarks.engine`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import time
from pathlib import Path

from benchmarks.engine.prompts import PromptWriter, Question
from benchmarks.engine.rig import Rig
from benchmarks.engine.visuals import Visual
from benchmarks.peers.orders import Arrivals, PictureOrder
from benchmarks.peers.programs.picture import picture_of
from benchmarks.peers.programs.session import InProcess, serve
from internvl.model_choice import ModelChoice, weight_flags
from llm_service.loading import open_model as open_language_model
from vision_service.limits import MediaLimits
from vision_service.loading import open_model as open_vision_model
from vision_service.media import decode_media
from vision_service.options import ImageOptions
from vision_service.preprocessing import normalise


class OneProcessEngine(InProcess):
    """An encoder and an engine that share their thread."""

    def __init__(self, choice: ModelChoice, *flags: str) -> None:
        vision = open_vision_model(choice)
        self._tiling = ImageOptions(vision.tiling)
        self._encoder = vision.load_encoder(choice.device, choice.threads)
        model = open_language_model(choice)
        self._writer = PromptWriter(model)
        self._rig = Rig(model, *flags)

    def picture(self, order: PictureOrder) -> Arrivals:
        """The first of the three requests, from the file to its answer."""
        file = io.BytesIO()
        picture_of(order).save(file, "PNG")
        began = time.perf_counter()
        media = decode_media(file.getvalue(), self._tiling, MediaLimits())
        tiles = self._encoder.encode(normalise(media.tiles))
        visual = Visual(hashlib.sha256(file.getvalue()).hexdigest(), tuple(tiles))
        question = Question(visual, order.questions()[0])
        stream = self._rig.submit(
            self._writer.request(question, self._writer.exactly(order.answer_tokens)), visual
        )
        self._rig.finish(stream)
        return [[arrival - began for arrival in stream.arrivals]]


def _open(args: argparse.Namespace) -> tuple[str, OneProcessEngine]:
    choice = ModelChoice(Path(args.model), threads=args.threads, weights=args.weights)
    flags = ("--model", args.model, "--threads", str(args.threads), *weight_flags(args.weights))
    return "internvl-serve", OneProcessEngine(choice, *flags, "--kv-budget", "1GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", required=True, help="how they are kept, as `ModelChoice.weights`")
    serve(_open, parser)
