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

    name: str
    config: InternVLConfig
    identity: EncoderIdentity
    _checkpoint: Checkpoint
    _weights: str | None = None

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
        from kernels import runtime
        from kernels.weight_format import WeightFormat

        runtime.prepare(threads, self.config)
        place = runtime.open_device(device, WeightFormat(self._weights) if self._weights else None)
        from vision_service.model.encoder import VisionEncoder

        with progress_bar("vision weights") as progress:
            return VisionEncoder.load(self._checkpoint.tensors(_OURS, progress), self.config, place)


def open_model(model: ModelChoice) -> LoadedModel:
    """Check a checkpoint and fingerprint the part of it that this service uses.

    Raises:
        CheckpointError: missing, surplus or mis-shaped tensors, or unreadable files.
        ConfigError: a config.json that cannot be used.
    """
    config = read_model_config(model.folder)
    checkpoint = open_checkpoint(model.folder, config)
    identity = EncoderIdentity(_fingerprint(checkpoint, config, model))
    return LoadedModel(model.name, config, identity, checkpoint, model.weights)


def _fingerprint(checkpoint: Checkpoint, config: InternVLConfig, model: ModelChoice) -> str:
    """Hash of the weights and of the settings without which the same weights give other embeddings."""
    settings = (config.vision, config.select_layer, config.ps_version, config.downsample_ratio)
    weights = model.as_kept(checkpoint.fingerprint(_OURS))
    return hashlib.sha256(f"{weights} {settings}".encode()).hexdigest()
