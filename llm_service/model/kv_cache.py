"""Keys and values of one sequence, and the little of it that attention may see."""

from __future__ import annotations

from typing import Protocol

import paddle

from internvl.errors import InternalError
from internvl.model_config import LlmConfig
from kernels.ops import Tensor
from kernels.runtime import Device
from llm_service.model.rope import RopeRegime


class LayerStore(Protocol):
    """What a decoder layer needs of a cache; a paged one can stand in for `KvCache`."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer behind the committed ones and return all of them.

        Args:
            keys, values: [n, kv_heads, d], keys already rotated.

        Returns:
            Keys and values of the whole sequence, [kv_heads, length + n, d].
        """
        ...


class KvCache:
    """Contiguous cache of one sequence, allocated for `capacity` tokens.

    Tokens written by `extend` count only after `commit`, once every layer has stored them: a forward pass
    that fails half-way leaves the cache as it was.
    """

    def __init__(self, config: LlmConfig, capacity: int, device: Device) -> None:
        # Uninitialised: on CPU, pages nobody wrote cost no memory, and nothing past `length` is ever read.
        shape = [config.num_key_value_heads, capacity, config.head_dim]
        layers = range(config.num_hidden_layers)
        self._keys = [paddle.empty(shape, dtype=device.dtype) for _ in layers]
        self._values = [paddle.empty(shape, dtype=device.dtype) for _ in layers]
        self._capacity = capacity
        self._length = 0
        self._regime: RopeRegime | None = None

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    @property
    def capacity(self) -> int:
        """Tokens it can hold."""
        return self._capacity

    @property
    def regime(self) -> RopeRegime | None:
        """How the held keys are rotated; None while empty."""
        return self._regime if self._length else None

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on; 0 empties the cache.

        Raises:
            InternalError: `length` is negative or more than is held.
        """
        if not 0 <= length <= self._length:
            raise InternalError(f"cache: cannot cut {self._length} tokens to {length}")
        self._length = length

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerStore.extend`."""
        start, end = self._length, self._length + keys.shape[0]
        self._keys[layer][:, start:end] = keys.transpose([1, 0, 2])
        self._values[layer][:, start:end] = values.transpose([1, 0, 2])
        return self._keys[layer][:, :end], self._values[layer][:, :end]

    def admit(self, count: int, regime: RopeRegime) -> None:
        """Check that `count` more tokens of this regime may be written.

        Raises:
            InternalError: no room, or the held keys are rotated with the other factors.
        """
        if self._length + count > self._capacity:
            raise InternalError(f"cache: {self._length} + {count} tokens exceed its {self._capacity}")
        if self.regime not in (None, regime):
            raise InternalError("cache: its keys are rotated for the other rope regime")

    def commit(self, count: int, regime: RopeRegime) -> None:
        """Count `count` tokens that every layer has stored."""
        self._length += count
        self._regime = regime
