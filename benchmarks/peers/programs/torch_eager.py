"""transformers on torch, eager, the decoder alone: `python -m benchmarks.peers.programs.torch_eager`.

Answers are written greedily by a loop over the model's own forward pass, which is what `generate` does.
Pictures are not compared: a second turn would compute everything again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import transformers

from benchmarks.peers.orders import Arrivals, TextOrder
from benchmarks.peers.programs.session import InProcess, serve

_NOISE = 1 << 24


class TorchEager(InProcess):
    """A decoder of random weights."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))["llm_config"]
        config = transformers.Phi3Config(**raw)
        with torch.device("meta"):
            model = transformers.Phi3ForCausalLM(config)
        self._model = model.to(dtype).to_empty(device="cpu").eval()
        noise = (torch.randn(_NOISE) * 0.02).to(dtype)
        with torch.no_grad():
            for parameter in self._model.parameters():
                _fill(parameter.view(-1), noise)
            for buffer in self._model.buffers():
                buffer.copy_(torch.linspace(1.0, 1e-4, buffer.numel()).view_as(buffer))

    def text(self, order: TextOrder) -> Arrivals:
        """See `TextEngine.text`."""
        with torch.inference_mode():
            return self._text(order)

    def _text(self, order: TextOrder) -> Arrivals:
        began = time.perf_counter()
        arrivals: Arrivals = [[] for _ in range(order.streams)]
        tokens, past = torch.tensor(order.prompts()), None
        for _ in range(order.answer_tokens):
            output = self._model(input_ids=tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
            tokens, past = output.logits[:, -1:].argmax(-1), output.past_key_values
            for times in arrivals:
                times.append(time.perf_counter() - began)
        return arrivals


def _fill(flat: torch.Tensor, noise: torch.Tensor) -> None:
    for start in range(0, flat.numel(), _NOISE):
        part = flat[start : start + _NOISE]
        part.copy_(noise[: part.numel()])


def _open(args: argparse.Namespace) -> tuple[str, TorchEager]:
    torch.set_num_threads(args.threads)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return version, TorchEager(Path(args.model), getattr(torch, args.dtype))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), required=True)
    serve(_open, parser)
