"""The whole decoder and the whole tower of InternVL2-4B, weights made up: what a step and a tile take."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import ml_dtypes
import numpy as np

from benchmarks.kernels.limits import Limits
from benchmarks.kernels.rates import seconds_of
from benchmarks.report import Row
from internvl.checkpoint import Part, series_config
from internvl.checkpoint.weight_format import WeightFormat
from internvl.model_config import InternVLConfig, parse_model_config
from kernels.paged import KvDtype
from kernels.runtime import open_device
from kernels.weights import WeightStream, specs_of
from llm_service.model.batch import Chunk
from llm_service.model.rope import RopeRegime
from llm_service.model.runner import ModelRunner
from vision_service.model.encoder import VisionEncoder

_CONTEXT = 512
_BLOCK = 8
_STEPS = 5


def decoder_rows(form: WeightFormat, limits: Limits) -> Iterator[Row]:
    """A prompt of 512 tokens, then steps of one token for 1, 4 and 8 sequences with 512 before it."""
    config = parse_model_config(series_config("InternVL2-4B"))
    weights = _made_up(config, Part.DECODER)
    runner = ModelRunner.load(weights, config, open_device("cpu", form))
    blocks = -(-(_CONTEXT + _STEPS + 1) // _BLOCK)
    runner.open_cache(8 * blocks, _BLOCK, KvDtype.BFLOAT16)
    tables = [list(range(first, first + blocks)) for first in range(0, 8 * blocks, blocks)]

    def chunk(number: int, start: int, tokens: int) -> Chunk:
        ids = np.arange(tokens, dtype=np.int64) + number
        return Chunk(ids, (), start, tables[number], RopeRegime.SHORT)

    name = f"decoder_{form.value}"
    prompts = [[chunk(number, 0, _CONTEXT)] for number in range(8)]
    prefills = [seconds_of(partial(runner.forward, prompt)) for prompt in prompts[:2]]
    yield Row(f"{name}_prefill_512_s", min(prefills), "s", f"{_CONTEXT / min(prefills):.0f} tokens/s")
    for prompt in prompts[2:]:
        runner.forward(prompt)
    for sequences in (1, 4, 8):
        steps = []
        for step in range(_STEPS):
            batch = [chunk(number, _CONTEXT + step, 1) for number in range(sequences)]
            steps.append(seconds_of(partial(runner.forward, batch)))
        yield Row(f"{name}_step_ms_{sequences}", 1e3 * statistics.median(steps), "ms", "context 512")
    yield Row(f"{name}_read_gb_s", limits.read_gb_s(), "GB/s", "memory, at the same time")


def tower_rows(form: WeightFormat) -> Iterator[Row]:
    """Tower and projector, one tile at a time."""
    config = parse_model_config(series_config("InternVL2-4B"))
    weights = _made_up(config, Part.VISION, Part.PROJECTOR)
    encoder = VisionEncoder.load(weights, config, open_device("cpu", form))
    side = config.force_image_size
    tiles = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    times = [seconds_of(partial(encoder.encode, tiles)) for _ in range(4)]
    yield Row(f"tower_{form.value}_s", statistics.median(times[1:]), "s", "one tile, projector included")


def _made_up(config: InternVLConfig, *parts: Part) -> WeightStream:
    """Numbers small enough to go through all layers, the same ones again and again."""
    pattern = (np.random.default_rng(0).standard_normal(1_000_003, np.float32) / 60).astype(
        ml_dtypes.bfloat16
    )
    for spec in specs_of(config, *parts).values():
        yield spec.name, np.resize(pattern, spec.shape)
