"""From a checkpoint folder to what the service needs: its description now, its decoder later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from internvl.checkpoint import Checkpoint, Part, open_checkpoint, progress_bar
from internvl.model_choice import ModelChoice
from internvl.model_config import InternVLConfig, read_model_config
from kernels import runtime
from kernels.runtime import Device
from kernels.weight_format import WeightFormat
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
        fingerprint: hash of the decoder's weights as they are kept.
    """

    name: str
    config: InternVLConfig
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    fingerprint: str
    _checkpoint: Checkpoint

    def load_decoder(self, device: Device, batch_invariant: bool = False) -> ModelRunner:
        """Read the weights into a decoder; call it on the thread that will use it.

        Args:
            batch_invariant: see `ModelRunner.load`.

        Raises:
            CheckpointError: the weights changed meanwhile, or do not fit.
            ConfigError: a configuration the decoder cannot run, or not so.
        """
        from llm_service.model.runner import ModelRunner

        with progress_bar("language weights") as progress:
            weights = self._checkpoint.tensors(Part.DECODER.value, progress)
            return ModelRunner.load(weights, self.config, device, batch_invariant)


def open_device(model: ModelChoice, config: InternVLConfig) -> Device:
    """Choose where to compute a model; call it on the thread that will.

    Raises:
        ConfigError: no such device, or another number of threads was set before.
    """
    runtime.prepare(model.threads, config)
    return runtime.open_device(model.device, WeightFormat(model.weights) if model.weights else None)


def open_model(model: ModelChoice) -> LoadedModel:
    """Check a checkpoint and its tokenizer, and fingerprint the decoder's weights.

    Raises:
        CheckpointError: missing, surplus or mis-shaped tensors, or unreadable files.
        ConfigError: a config.json or tokenizer that cannot be used, or the two do not belong together.
    """
    config = read_model_config(model.folder)
    checkpoint = open_checkpoint(model.folder, config)
    tokenizer = Tokenizer.load(model.folder)
    check_tokenizer(tokenizer, config)
    return LoadedModel(
        name=model.name,
        config=config,
        tokenizer=tokenizer,
        stop_ids=default_stop_ids(tokenizer, model.folder),
        fingerprint=model.as_kept(checkpoint.fingerprint(Part.DECODER.value)),
        _checkpoint=checkpoint,
    )
