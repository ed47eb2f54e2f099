"""The language model as the engine drives it: chunks of many sequences in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from internvl.checkpoint.tensor_specs import Part
from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig, LlmConfig
from kernels.dispatch import open_ops
from kernels.ops import Linear, Ops, Tensor
from kernels.runtime import CPU, Device
from kernels.weights import Weights, WeightStream, load_weights, specs_of
from llm_service.model.batch import Chunk, check_chunks
from llm_service.model.decoder import Context, Decoder, Segment
from llm_service.model.kv_cache import KvCache
from llm_service.model.rope import RotaryTables

_TABLE = f"{Part.DECODER.value}model.embed_tokens.weight"
_HEAD = f"{Part.DECODER.value}lm_head.weight"


class ModelRunner:
    """Weights and arithmetic of one decoder; sequences live in the caches. Not thread-safe."""

    def __init__(self, weights: Weights, config: InternVLConfig, ops: Ops) -> None:
        self._config = config
        self._ops = ops
        self._table = weights.matrix(_TABLE)
        self._head = Linear(self._table if config.llm.tie_word_embeddings else weights.matrix(_HEAD))
        self._decoder = Decoder(weights, config.llm, ops)
        self._rotary = RotaryTables(config.llm)

    @classmethod
    def load(cls, weights: WeightStream, config: InternVLConfig, device: Device = CPU) -> ModelRunner:
        """Build the decoder from the `language_model.` tensors of a checkpoint.

        Args:
            weights: those tensors, once each, in any order, Hugging Face names and orientation.
            device: from `kernels.runtime.open_device`.

        Raises:
            CheckpointError: missing, surplus or mis-shaped tensors, all of them listed.
            ConfigError: a decoder this runner does not implement.
        """
        _check_config(config.llm)
        ops = open_ops(device)
        return cls(load_weights(weights, specs_of(config, Part.DECODER), ops), config, ops)

    @property
    def config(self) -> InternVLConfig:
        return self._config

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory one token takes in a cache."""
        llm = self._config.llm
        size = 4 if self._ops.device.dtype == "float32" else 2
        return 2 * llm.num_hidden_layers * llm.num_key_value_heads * llm.head_dim * size

    def new_cache(self, capacity: int) -> KvCache:
        """An empty cache for one sequence of at most `capacity` tokens."""
        return KvCache(self._config.llm, capacity, self._ops.device)

    def forward(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Append each chunk to its cache and predict what follows it.

        Returns:
            Logits at the last position of each chunk, float32 [chunks, vocab].

        Raises:
            InternalError: a chunk that does not fit its cache, the vocabulary or the model's width.
        """
        hidden = self._run(chunks)
        if hidden.shape[0] > len(chunks):
            last = np.cumsum([chunk.length for chunk in chunks]) - 1
            hidden = paddle.gather(hidden, paddle.to_tensor(last, place=self._ops.device.place))
        return self._logits(hidden)

    def forward_all(self, chunks: Sequence[Chunk]) -> list[np.ndarray]:
        """As `forward`, with the logits of every position: float32 [length, vocab] for each chunk."""
        logits = self._logits(self._run(chunks))
        borders = np.cumsum([chunk.length for chunk in chunks])[:-1]
        return list(np.split(logits, borders))

    def _run(self, chunks: Sequence[Chunk]) -> Tensor:
        check_chunks(chunks, self._config.llm.vocab_size, self._config.llm.hidden_size)
        hidden = self._decoder.forward(self._embed(chunks), self._context(chunks))
        for chunk in chunks:
            chunk.cache.commit(chunk.length, chunk.regime)
        return hidden

    def _logits(self, hidden: Tensor) -> np.ndarray:
        return self._ops.to_numpy(self._ops.linear(self._decoder.normalise(hidden), self._head))

    def _embed(self, chunks: Sequence[Chunk]) -> Tensor:
        """Token embeddings of all chunks, [tokens, hidden], visual tokens in their places."""
        text = self._ops.embedding(np.concatenate([chunk.token_ids for chunk in chunks]), self._table)
        pieces: list[Tensor] = []
        start = done = 0
        for chunk in chunks:
            for span in chunk.visual:
                pieces += [text[done : start + span.offset], self._ops.tensor(span.embeddings)]
                done = start + span.end
            start += chunk.length
        return paddle.concat([*pieces, text[done:]]) if pieces else text

    def _context(self, chunks: Sequence[Chunk]) -> Context:
        tables = [self._rotary.lookup(chunk.cache.length, chunk.length, chunk.regime) for chunk in chunks]
        cos, sin = (np.concatenate(parts)[:, None, :] for parts in zip(*tables, strict=True))
        ends = np.cumsum([chunk.length for chunk in chunks]).tolist()
        segments = [
            Segment(end - chunk.length, end, chunk.cache) for chunk, end in zip(chunks, ends, strict=True)
        ]
        return Context(self._ops.tensor(cos), self._ops.tensor(sin), segments)


def _check_config(config: LlmConfig) -> None:
    if config.architecture != "Phi3ForCausalLM":
        raise ConfigError(
            f"llm_config.architectures: {config.architecture} is not served, only Phi3ForCausalLM"
        )
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError("llm_config.num_key_value_heads: must divide num_attention_heads")
    if config.sliding_window is not None and config.sliding_window < config.max_position_embeddings:
        raise ConfigError(
            f"llm_config.sliding_window: {config.sliding_window} is below max_position_embeddings "
            f"({config.max_position_embeddings}); windowed attention is not implemented"
        )
