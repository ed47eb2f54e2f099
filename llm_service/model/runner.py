"""The language model as the engine drives it: chunks of many sequences in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import paddle
from numpy.typing import NDArray

from internvl.checkpoint.tensor_specs import Part
from internvl.errors import ConfigError, InternalError
from internvl.model_config import InternVLConfig, LlmConfig
from kernels.dispatch import open_ops
from kernels.host import on_device
from kernels.ops import Linear, Ops, Tensor
from kernels.paged import KvDtype, KvPool, KvShape
from kernels.runtime import CPU, Device
from kernels.weight_cache import CachedPart
from kernels.weights import Weights, WeightStream, load_weights, specs_of
from llm_service.model.batch import Chunk, check_chunks, padded, page
from llm_service.model.decoder import Context, Decoder
from llm_service.model.rope import RotaryTables
from llm_service.model.row_tiles import CHECK_BLOCK, TILES, check_blocks, cut, find_tile

_TABLE = f"{Part.DECODER.value}model.embed_tokens.weight"
_NORM = f"{Part.DECODER.value}model.norm"
_HEAD = f"{Part.DECODER.value}lm_head.weight"

# Far above what an encoder gives, and far below where float32 ends.
_LARGEST_INPUT = 1e6


class ModelRunner:
    """Weights and arithmetic of one decoder, and the cache its sequences share. Not thread-safe."""

    def __init__(self, weights: Weights, config: InternVLConfig, ops: Ops) -> None:
        self._config = config
        self._ops = ops
        self._table = weights.matrix(_TABLE)
        self._head = Linear(self._table if config.llm.tie_word_embeddings else weights.matrix(_HEAD))
        self._norm = weights.norm(_NORM, config.llm.rms_norm_eps)
        self._decoder = Decoder(weights, config.llm, ops)
        self._rotary = RotaryTables(config.llm)
        self._pool: KvPool | None = None
        self._tile: int | None = None  # rows of every pass; as many as there are, if None

    @classmethod
    def load(
        cls,
        weights: WeightStream,
        config: InternVLConfig,
        device: Device = CPU,
        batch_invariant: bool = False,
        cache: CachedPart | None = None,
    ) -> ModelRunner:
        """Build the decoder from the `language_model.` tensors of a checkpoint.

        Args:
            weights: those tensors, once each, in any order, Hugging Face names and orientation.
            device: from `kernels.runtime.open_device`.
            batch_invariant: compute each token in the same steps whatever is computed with it, wherever its
                prompt is cut and whichever blocks hold it, so that its logits are equal to the last bit.
                Slower.
            cache: see `load_weights`.

        Raises:
            CheckpointError: missing, surplus or mis-shaped tensors, all of them listed.
            ConfigError: a decoder this runner does not implement, or one that is not batch-invariant here.
        """
        _check_config(config.llm)
        ops = open_ops(device, batch_invariant)
        runner = cls(_packed(weights, config, ops, cache), config, ops)
        if batch_invariant:
            runner._find_tile()
        return runner

    @property
    def config(self) -> InternVLConfig:
        return self._config

    def block_bytes(self, block_size: int, dtype: KvDtype) -> int:
        """Memory of one block of the cache."""
        return self._cache_shape(1, block_size, dtype).block_bytes

    def open_cache(self, blocks: int, block_size: int, dtype: KvDtype = KvDtype.FLOAT32) -> None:
        """Reserve the cache; one opened before is let go with all it held."""
        self._pool = None
        self._pool = self._ops.open_pool(self._cache_shape(blocks, block_size, dtype))

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks: (source, target) of each; no target is a source too."""
        if pairs:
            self._cache().copy_blocks(np.array(pairs, np.int64))

    def forward(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """Compute the chunks, store their keys and values, and predict what follows.

        Returns:
            For each chunk the logits at its last `wanted` tokens, float32 [wanted, vocab].

        Raises:
            InternalError: a chunk that does not fit the cache, the vocabulary or the model's width.
        """
        llm, cache = self._config.llm, self._cache()
        check_chunks(chunks, llm.vocab_size, llm.hidden_size, cache.shape)
        if self._tile is not None:
            return self._forward_in_tiles(chunks, self._tile)
        # Side by side what attention computes together: as many rows, about as long.
        order = sorted(range(len(chunks)), key=lambda i: (chunks[i].length, chunks[i].end))
        logits = self._pass([chunks[i] for i in order], sum(chunk.length for chunk in chunks))
        return [logits[place] for place in np.argsort(order)]

    def forward_all(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """As `forward`, with the logits of every token: float32 [length, vocab] for each chunk."""
        return self.forward([replace(chunk, wanted=chunk.length) for chunk in chunks])

    def _find_tile(self) -> None:
        self.open_cache(check_blocks(), CHECK_BLOCK)
        self._tile = TILES[0]  # any: what matters is that there is one
        self._tile = find_tile(self._forward_in_tiles, self._config.llm.vocab_size)
        self._pool = None

    def _forward_in_tiles(self, chunks: Sequence[Chunk], rows: int) -> list[NDArray[np.float32]]:
        logits: list[list[NDArray[np.float32]]] = [[] for _ in chunks]
        for tile in cut(chunks, rows):
            parts = self._pass([piece.chunk for piece in tile], rows)
            for piece, part in zip(tile, parts, strict=True):
                logits[piece.number].append(part)
        return [np.concatenate(parts) for parts in logits]

    def _pass(self, chunks: Sequence[Chunk], rows: int) -> list[NDArray[np.float32]]:
        """Compute chunks in one pass of `rows` rows, padding included."""
        cache, heads = self._cache(), self._config.llm.num_attention_heads
        hidden = self._embed(chunks, rows)
        batch = page(chunks, self._rotary, cache.shape, heads, rows)
        plan = self._ops.plan_attention(batch, cache)
        hidden = self._decoder.forward(hidden, Context(cache, plan))
        ends = batch.starts[1:]
        wanted = [np.arange(end - chunk.wanted, end) for chunk, end in zip(chunks, ends, strict=True)]
        borders = np.cumsum([chunk.wanted for chunk in chunks])
        return np.split(self._logits(hidden, np.concatenate(wanted)), borders[:-1])

    def _logits(self, hidden: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of some rows, in order."""
        if not len(rows):
            return np.empty((0, self._config.llm.vocab_size), np.float32)
        if self._tile is None and len(rows) < hidden.shape[0]:
            hidden = paddle.gather(hidden, on_device(rows, self._ops.device))
        logits = self._ops.to_numpy(self._ops.linear(hidden, self._head, before=self._norm))
        return logits if self._tile is None else logits[rows]  # a tile's rows are as many as ever

    def _embed(self, chunks: Sequence[Chunk], rows: int) -> Tensor:
        """Token embeddings of all chunks, [rows, hidden], visual tokens in their places; id 0 for padding."""
        ids = np.concatenate([chunk.token_ids for chunk in chunks])
        text = self._ops.embedding(padded(ids, rows), self._table)
        pieces: list[Tensor] = []
        start = done = 0
        for chunk in chunks:
            for span in chunk.visual:
                pieces += [text[done : start + span.offset], self._ops.tensor(_bounded(span.embeddings))]
                done = start + span.end
            start += chunk.length
        return paddle.concat([*pieces, text[done:]]) if pieces else text

    def _cache(self) -> KvPool:
        if self._pool is None:
            raise InternalError("cache: not opened")
        return self._pool

    def _cache_shape(self, blocks: int, block_size: int, dtype: KvDtype) -> KvShape:
        llm = self._config.llm
        return KvShape(
            layers=llm.num_hidden_layers,
            blocks=blocks,
            block_size=block_size,
            kv_heads=llm.num_key_value_heads,
            head_dim=llm.head_dim,
            dtype=dtype,
        )


def _packed(weights: WeightStream, config: InternVLConfig, ops: Ops, cache: CachedPart | None) -> Weights:
    specs = specs_of(config, Part.DECODER)
    return load_weights(weights, specs, ops, tied_table=config.llm.tie_word_embeddings, cache=cache)


def _bounded(embeddings: np.ndarray) -> NDArray[np.float32]:
    """Without NaN, infinities and numbers that would become ones on the way through the layers.

    Blocks are used again by other requests, which read masked places of them with weight 0.
    """
    wide = embeddings.astype(np.float32)
    return np.clip(np.nan_to_num(wide, copy=False), -_LARGEST_INPUT, _LARGEST_INPUT, out=wide)


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
