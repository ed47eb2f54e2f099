"""From a checkpoint folder to what the service needs: its description now, its decoder later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from internvl.checkpoint import Checkpoint, Part, open_checkpoint, progress_bar
from internvl.checkpoint.weight_format import WeightFormat
from internvl.model_choice import ModelChoice
from internvl.model_config import InternVLConfig, read_model_config
from kernels import runtime
from kernels.runtime import Device
from kernels.weight_cache import cached_part
from llm_service.text.stopping import default_stop_ids
from llm_service.text.template import check_tokenizer
from llm_service.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llm_service.model.runner import ModelRunner


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checked checkpoint of which nothing large is in memory yet.

    Attributes:
        name: for people.
        stop_ids: token ids that end an answer.
    """

    name: str
    config: InternVLConfig
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    _choice: ModelChoice
    _checkpoint: Checkpoint

    @property
    def fingerprint(self) -> str:
        """Hash of the decoder's weights as they are kept; before they are loaded it may take reading all."""
        return self._choice.as_kept(self._checkpoint.fingerprint(Part.DECODER.value), self.config)

    def load_decoder(self, device: Device, batch_invariant: bool = False) -> ModelRunner:
        """Read the weights into a decoder; call it on the thread that will use it.

        Args:
            batch_invariant: see `ModelRunner.load`.

        Raises:
            CheckpointError: the weights changed meanwhile, or do not fit.
            ConfigError: a configuration the decoder cannot run, or not so.
        """
        from llm_service.model.runner import ModelRunner

        cache = cached_part(self._choice.weight_cache, self._checkpoint, Part.DECODER.value)
        with progress_bar("language weights") as progress:
            weights = self._checkpoint.load(Part.DECODER.value, progress)
            return ModelRunner.load(weights, self.config, device, batch_invariant, cache)


def open_device(model: ModelChoice, config: InternVLConfig) -> Device:
    """Choose where to compute a model; call it on the thread that will.

    Raises:
        ConfigError: no such device, or another number of threads was set before.
    """
    runtime.prepare(model.threads, config)
    kept = model.weights_for(config)
    return runtime.open_device(model.device, WeightFormat(kept) if kept else None)


def open_model(model: ModelChoice) -> LoadedModel:
    """Check a checkpoint and its tokenizer; of the weights only tables are read.

    Raises:
        CheckpointError: missing, surplus or mis-shaped tensors, or unreadable files.
        ConfigError: a config.json or tokenizer that cannot be used, or the two do not belong together; or
            weights are to be kept otherwise than the checkpoint holds them.
    """
    config = read_model_config(model.folder)
    model.weights_for(config)
    checkpoint = open_checkpoint(model.folder, config, model.fingerprints)
    tokenizer = Tokenizer.load(model.folder)
    check_tokenizer(tokenizer, config)
    return LoadedModel(
        name=model.name,
        config=config,
        tokenizer=tokenizer,
        stop_ids=default_stop_ids(tokenizer, model.folder),
        _choice=model,
        _checkpoint=checkpoint,
    )
