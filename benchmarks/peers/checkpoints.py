"""The same model for everybody: InternVL2-4B with random weights, in the form that each peer reads."""

from __future__ import annotations

import json
import shutil
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import LLAMA, python_of, reason
from benchmarks.peers.failures import NotRunError
from benchmarks.peers.progress import say
from benchmarks.random_model import random_checkpoint
from internvl.checkpoint import series_config

LAYERS = 32
"""Of the decoder; the vision tower has 24."""

ROOT = Path(__file__).parents[2]

_CONVERT_S = 3600.0

# vLLM reads the configuration of this model through code that the checkpoint brings.
_REMOTE_CODE = "configuration_internvl_chat"
_CONFIGURATION = '''"""The configuration of InternVL2, for engines that ask the checkpoint for it."""

from transformers import Phi3Config, PretrainedConfig


class InternVisionConfig(PretrainedConfig):
    model_type = "intern_vit_6b"


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    is_composition = True

    def __init__(self, vision_config=None, llm_config=None, **others):
        super().__init__(**others)
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = Phi3Config(**(llm_config or {}))
'''


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where the models of one size lie.

    Attributes:
        cache: folder of everything that the race makes.
        layers: of the decoder; the vision tower is cut in proportion.
        given: a checkpoint to take in place of a random one.
    """

    cache: Path
    layers: int = LAYERS
    given: Path | None = None

    def released_layout(self) -> Path:
        """For this project."""
        if self.given is not None:
            return self.given
        return random_checkpoint(self._folder("checkpoint"), config_of(self.layers))

    def description(self) -> Path:
        """For engines that make up their own weights: configuration and tokenizer alone, as transformers
        5 wants them."""
        source, folder = self.released_layout(), self._folder("description")
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.suffix in (".json", ".model") and not file.name.endswith(".index.json"):
                shutil.copy(file, folder)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(modern(config), indent=2), encoding="utf-8")
        (folder / f"{_REMOTE_CODE}.py").write_text(_CONFIGURATION, encoding="utf-8")
        return folder

    def gguf(self, kind: str) -> Path:
        """For llama.cpp: `bf16`, `q8_0` or `q4_k_m`.

        Raises:
            NotRunError: it could not be made.
        """
        folder = self._folder("gguf")
        target = folder / f"{kind}.gguf"
        if not target.exists():
            self._convert(folder)
        return target

    def _convert(self, folder: Path) -> None:
        python = python_of(LLAMA, self.cache)
        say("writing the files of llama.cpp: minutes, once")
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "conversion.log"
        module = "benchmarks.peers.programs.gguf_files"
        command = [str(python), "-m", module, str(self.released_layout()), str(folder)]
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                command, stdout=file, stderr=file, cwd=ROOT, check=False, timeout=_CONVERT_S
            )
        if done.returncode:
            raise NotRunError(f"no GGUF: {reason(log)}")

    def _folder(self, name: str) -> Path:
        size = f"{self.layers}-layers" if self.given is None else self.given.resolve().name
        return self.cache / "models" / size / name


def config_of(layers: int) -> dict[str, Any]:
    """config.json of InternVL2-4B with so many layers in the decoder, and as many in proportion before it."""
    config = series_config("InternVL2-4B")
    vision = config["vision_config"]
    vision["num_hidden_layers"] = max(1, vision["num_hidden_layers"] * layers // LAYERS)
    config["llm_config"]["num_hidden_layers"] = layers
    return config


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration in the words of today's transformers: `longrope`, and its limit beside it."""
    config = deepcopy(config)
    llm = config["llm_config"]
    llm["rope_scaling"] |= {
        "type": "longrope",
        "rope_type": "longrope",
        "original_max_position_embeddings": llm["original_max_position_embeddings"],
    }
    config["auto_map"] = {"AutoConfig": f"{_REMOTE_CODE}.InternVLChatConfig"}
    return config
