"""What `internvl checkpoint inspect` reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from internvl.checkpoint.reader import Survey, survey_checkpoint
from internvl.checkpoint.shards import TensorEntry
from internvl.checkpoint.tensor_specs import Part
from internvl.model_config import InternVLConfig, read_model_config


@dataclass(frozen=True, slots=True)
class PartSummary:
    """Tensors and parameters of one part of the model, as found in the files."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """A whole checkpoint. `layout` is None if it cannot be told; `problems` is empty if it is sound."""

    layout: str | None
    evidence: tuple[str, ...]
    shards: dict[str, int]
    parts: dict[str, PartSummary]
    total: PartSummary
    dtypes: dict[str, int]
    config: dict[str, Any]
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_checkpoint(folder: Path) -> Report:
    """Look at config and tables of a checkpoint; no weight is read.

    Raises:
        ConfigError: config.json cannot be used.
        CheckpointError: there are no readable weights at all.
    """
    survey = survey_checkpoint(folder, read_model_config(folder))
    return Report(
        layout=survey.decision.layout.value if survey.decision else None,
        evidence=survey.decision.evidence if survey.decision else (),
        shards={shard.name: (folder / shard.name).stat().st_size for shard in survey.shards},
        parts={part.name.lower(): _summary(_of_part(survey, part)) for part in Part},
        total=_summary(survey.entries.values()),
        dtypes=dict(Counter(entry.dtype for entry in survey.entries.values())),
        config=_config_summary(survey.config),
        problems=survey.problems,
    )


def _of_part(survey: Survey, part: Part) -> list[TensorEntry]:
    return [entry for entry in survey.entries.values() if entry.name.startswith(part.value)]


def _summary(entries: Collection[TensorEntry]) -> PartSummary:
    return PartSummary(
        tensors=len(entries),
        parameters=sum(entry.parameters for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
    )


def _config_summary(config: InternVLConfig) -> dict[str, Any]:
    vision, llm = config.vision, config.llm
    return {
        "template": config.template,
        "vision": f"{vision.num_hidden_layers} layers, width {vision.hidden_size}, "
        f"{vision.num_attention_heads} heads, {vision.norm_type}, "
        f"{vision.image_size} px in patches of {vision.patch_size}",
        "llm": f"{llm.architecture}, {llm.num_hidden_layers} layers, width {llm.hidden_size}, "
        f"{llm.num_attention_heads} heads ({llm.num_key_value_heads} key-value), vocabulary {llm.vocab_size}",
        "tokens_per_tile": config.tokens_per_tile,
        "max_dynamic_patch": config.max_dynamic_patch,
        "torch_dtype": config.torch_dtype,
    }
