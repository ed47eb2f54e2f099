"""From a checkpoint folder to what the service needs of it: a description now, the encoder when asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from internvl.checkpoint import Checkpoint, Part, open_checkpoint, progress_bar
from internvl.model_choice import ModelChoice
from internvl.model_config import InternVLConfig, read_model_config
from vision_service.encoder import TileModel
from vision_service.tiling import TilingOptions
from vision_service.visual_id import EncoderIdentity

_OURS = (Part.VISION.value, Part.PROJECTOR.value)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checked checkpoint of which nothing large is in memory yet."""

    config: InternVLConfig
    _choice: ModelChoice
    _checkpoint: Checkpoint

    @property
    def name(self) -> str:
        """For people."""
        return self._choice.name

    @property
    def identity(self) -> EncoderIdentity:
        """What embeddings depend on; before the weights are loaded it may take reading all of them."""
        weights = self._choice.as_kept(self._checkpoint.fingerprint(_OURS), self.config)
        config = self.config
        settings = (config.vision, config.select_layer, config.ps_version, config.downsample_ratio)
        # Without the settings the same weights give other embeddings.
        return EncoderIdentity(hashlib.sha256(f"{weights} {settings}".encode()).hexdigest())

    @property
    def tiling(self) -> TilingOptions:
        """How this model tiles a picture unless told otherwise."""
        config = self.config
        return TilingOptions(
            min_tiles=config.min_dynamic_patch if config.dynamic_image_size else 1,
            max_tiles=config.max_dynamic_patch if config.dynamic_image_size else 1,
            thumbnail=config.use_thumbnail,
            tile_size=config.force_image_size,
        )

    def load_encoder(self, device: str, threads: int | None) -> TileModel:
        """Read the weights into an encoder; call it on the thread that will use it.

        Raises:
            CheckpointError: the weights changed meanwhile, or do not fit.
            ConfigError: no such device, or a configuration the encoder cannot run.
        """
        from internvl.checkpoint.weight_format import WeightFormat
        from kernels import runtime
        from kernels.weight_cache import cached_part

        kept = self._choice.weights_for(self.config)
        runtime.prepare(threads, self.config)
        place = runtime.open_device(device, WeightFormat(kept) if kept else None)
        from vision_service.model.encoder import VisionEncoder

        cache = cached_part(self._choice.weight_cache, self._checkpoint, _OURS)
        with progress_bar("vision weights") as progress:
            return VisionEncoder.load(self._checkpoint.load(_OURS, progress), self.config, place, cache)


def open_model(model: ModelChoice) -> LoadedModel:
    """Check a checkpoint, reading tables only.

    Raises:
        CheckpointError: missing, surplus or mis-shaped tensors, or unreadable files.
        ConfigError: a config.json that cannot be used, or weights are to be kept otherwise than the
            checkpoint holds them.
    """
    config = read_model_config(model.folder)
    model.weights_for(config)
    return LoadedModel(config, model, open_checkpoint(model.folder, config, model.fingerprints))
