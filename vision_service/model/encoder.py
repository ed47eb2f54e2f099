"""The whole vision side: normalised tiles to visual tokens."""

from __future__ import annotations

import numpy as np

from internvl.checkpoint.tensor_specs import Part
from internvl.errors import InternalError
from internvl.model_config import InternVLConfig
from kernels.dispatch import open_ops
from kernels.ops import Ops
from kernels.runtime import CPU, Device
from kernels.weight_cache import CachedPart
from kernels.weights import Specs, WeightStream, load_weights, specs_of
from vision_service.model.projector import Projector, pixel_shuffle, shuffle_factor
from vision_service.model.tower import VisionTower, selected_depth


class VisionEncoder:
    """Tower, pixel shuffle and projector of one checkpoint. Not thread-safe: call it from one thread."""

    def __init__(self, tower: VisionTower, projector: Projector, config: InternVLConfig, ops: Ops) -> None:
        self._tower = tower
        self._projector = projector
        self._config = config
        self._ops = ops
        self._factor = shuffle_factor(config)

    @classmethod
    def load(
        cls,
        weights: WeightStream,
        config: InternVLConfig,
        device: Device = CPU,
        cache: CachedPart | None = None,
    ) -> VisionEncoder:
        """Build the encoder from the `vision_model.` and `mlp1.` tensors of a checkpoint.

        Args:
            weights: those tensors, once each, in any order, Hugging Face names and orientation.
            device: from `kernels.runtime.open_device`.
            cache: see `load_weights`.

        Raises:
            CheckpointError: missing, surplus or mis-shaped tensors, all of them listed.
            ConfigError: a configuration this encoder cannot run.
        """
        ops = open_ops(device)
        specs = specs_of(config, Part.VISION, Part.PROJECTOR)
        unused = _beyond(specs, selected_depth(config))
        packed = load_weights(weights, specs, ops, unused, cache=cache)
        return cls(VisionTower(packed, config, ops), Projector(packed, ops), config, ops)

    @property
    def config(self) -> InternVLConfig:
        return self._config

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Visual tokens of a batch of tiles.

        Args:
            tiles: [n, 3, side, side] float32, normalised. Any side that holds a whole number of merged
                patches; positions are resampled where it is not the one they were trained on.

        Returns:
            [n, tokens, llm_hidden] float32; `tokens` is `config.tokens_per_tile` at `force_image_size`.

        Raises:
            InternalError: any other shape; requests are validated before they become tiles.
        """
        self._check(tiles)
        patches = self._tower.forward(tiles)[:, 1:]
        tokens = pixel_shuffle(patches, self._factor, self._config.ps_version)
        return self._ops.to_numpy(self._projector.forward(tokens))

    def _check(self, tiles: np.ndarray) -> None:
        channels = self._config.vision.num_channels
        step = self._config.vision.patch_size * self._factor
        if tiles.ndim != 4 or tiles.shape[1] != channels or tiles.shape[2] != tiles.shape[3]:
            raise InternalError(f"tiles: expected [n, {channels}, side, side], found {list(tiles.shape)}")
        if tiles.shape[0] == 0 or tiles.shape[2] == 0 or tiles.shape[2] % step:
            raise InternalError(f"tiles: expected at least one, of a side divisible by {step} pixels")


def _beyond(specs: Specs, depth: int) -> frozenset[str]:
    """Tensors of the blocks after the selected one: in the file, never run."""
    layers = f"{Part.VISION.value}encoder.layers."
    return frozenset(
        name for name in specs if name.startswith(layers) and int(name[len(layers) :].split(".")[0]) >= depth
    )
