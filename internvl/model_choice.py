"""Which checkpoint a computing tier serves, and where it computes: the same flags on both tiers."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from internvl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A checkpoint and a place.

    Attributes:
        folder: a checkpoint in a released layout.
        device: `cpu` or `gpu:N`.
        threads: of the compute pool on CPU; None leaves it to the model and the machine.
    """

    folder: Path
    device: str = "cpu"
    threads: int | None = None

    @property
    def name(self) -> str:
        """Name of the model, for people."""
        return self.folder.resolve().name

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Build from the flags that `add_model_flags` declared.

        Raises:
            ConfigError: no model was named and none is embedded.
        """
        return cls(args.model or _embedded_model(), args.device, args.threads)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `ModelChoice`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="checkpoint in a released layout; unset: the embedded nano model",
    )
    group.add_argument("--device", default="cpu", metavar="cpu|gpu:N", help="where the model computes")
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="compute threads on CPU; unset: OMP_NUM_THREADS, else what suits the model",
    )


def _embedded_model() -> Path:
    package = importlib.util.find_spec("models")
    folder = Path(package.origin).parent / "nano" if package and package.origin else None
    if folder is None or not (folder / "config.json").exists():
        raise ConfigError("--model: needed, because this installation holds no default model")
    return folder
