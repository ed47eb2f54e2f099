"""llama.cpp, as llama-cpp-python binds it: `python -m benchmarks.peers.programs.llama_cpp`.

Prompts of several streams are computed one after another, then all answers together, token by token.
Pictures are not compared: its own tool for them is another program with another prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from ctypes import c_bool

import llama_cpp
import numpy as np

from benchmarks.peers.orders import Arrivals, TextOrder
from benchmarks.peers.programs.session import InProcess, serve

_STREAMS = 8
_CONTEXT = 1024
_BATCH = 512


class LlamaCpp(InProcess):
    """A model in memory and a cache of eight sequences."""

    def __init__(self, path: str, threads: int, flash_attention: bool) -> None:
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not model:
            raise RuntimeError("the model was not loaded")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = _CONTEXT * _STREAMS
        params.n_seq_max = _STREAMS
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash_attention)
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("the context was not made")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def text(self, order: TextOrder) -> Arrivals:
        """See `TextEngine.text`."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), c_bool(True))
        began = time.perf_counter()
        arrivals: Arrivals = []
        last = []
        for stream, prompt in enumerate(order.prompts()):
            last.append(self._prefill(stream, prompt))
            arrivals.append([time.perf_counter() - began])
        for step in range(order.answer_tokens - 1):
            position = order.prompt_tokens + step
            last = self._decode([(token, position, stream) for stream, token in enumerate(last)], len(last))
            for times in arrivals:
                times.append(time.perf_counter() - began)
        return arrivals

    def _prefill(self, stream: int, prompt: Sequence[int]) -> int:
        """The first token of the answer."""
        rows = [(token, position, stream) for position, token in enumerate(prompt)]
        for start in range(0, len(rows), _BATCH):
            likeliest = self._decode(rows[start : start + _BATCH], 1)
        return likeliest[0]

    def _decode(self, rows: Sequence[tuple[int, int, int]], wanted: int) -> list[int]:
        """Compute rows of token, position and stream; the likeliest token after each of the last `wanted`."""
        batch = self._batch
        batch.n_tokens = len(rows)
        first = len(rows) - wanted
        for number, (token, position, stream) in enumerate(rows):
            batch.token[number] = token
            batch.pos[number] = position
            batch.n_seq_id[number] = 1
            batch.seq_id[number][0] = stream
            batch.logits[number] = number >= first
        if llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        return [self._likeliest(number) for number in range(first, len(rows))]

    def _likeliest(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self._vocabulary,))))


def _open(args: argparse.Namespace) -> tuple[str, LlamaCpp]:
    version = f"llama-cpp-python {llama_cpp.__version__}"
    return version, LlamaCpp(args.model, args.threads, args.flash_attention == "on")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--flash-attention", choices=("on", "off"), required=True)
    serve(_open, parser)
