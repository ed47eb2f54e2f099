"""Which checkpoint a computing tier serves, and where it computes: the same flags on both tiers."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from internvl.checkpoint.fingerprints import FingerprintStore
from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig
from internvl.user_cache import user_cache

DTYPES = ("fp32", "bf16")
QUANTIZATIONS = ("int8", "w8", "w4")

_GIB = 2**30
_DEFAULT_CACHE_GIB = 32


@dataclass(frozen=True, slots=True)
class WeightCacheChoice:
    """Where packed weights and fingerprints are kept for the next start.

    Attributes:
        limit_bytes: of all packed weights there; the least recently used go first.
    """

    folder: Path
    limit_bytes: int = _DEFAULT_CACHE_GIB * _GIB


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A checkpoint and a place.

    Attributes:
        folder: a checkpoint in a released layout.
        device: `cpu` or `gpu:N`.
        threads: of the compute pool on CPU; None leaves it to the model and the machine.
        weights: how matrices are kept, `fp32`, `bf16`, `int8`, `w8` or `w4`; None leaves it to the
            checkpoint, and where that does not say, to the device.
        weight_cache: None keeps nothing on disk.
    """

    folder: Path
    device: str = "cpu"
    threads: int | None = None
    weights: str | None = None
    weight_cache: WeightCacheChoice | None = None

    @property
    def name(self) -> str:
        """Name of the model, for people."""
        return self.folder.resolve().name

    @property
    def fingerprints(self) -> FingerprintStore | None:
        """Where fingerprints of weights are kept between starts."""
        return FingerprintStore(self.weight_cache.folder / "fingerprints") if self.weight_cache else None

    def weights_for(self, config: InternVLConfig) -> str | None:
        """How weights of this model are kept: as the checkpoint holds them if it says so, else as chosen.

        Raises:
            ConfigError: the two contradict one another.
        """
        held = config.weight_format
        if held is None or self.weights in (None, held):
            return held or self.weights
        flag = "--dtype" if self.weights in DTYPES else "--quantize"
        raise ConfigError(
            f"{flag}: asks for {self.weights}, but the checkpoint holds {held} (weight_format in its "
            "config.json); leave the flag out, or take the checkpoint it was made from"
        )

    def as_kept(self, fingerprint: str, config: InternVLConfig) -> str:
        """Name weights by their fingerprint and by what is kept of them; fp32 keeps everything."""
        weights = self.weights_for(config)
        if weights in (None, "fp32"):
            return fingerprint
        return hashlib.sha256(f"{fingerprint} {weights}".encode()).hexdigest()

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Build from the flags that `add_model_flags` declared.

        Raises:
            ConfigError: no model was named and none is embedded.
        """
        return cls(
            args.model or _embedded_model(),
            args.device,
            args.threads,
            weights_of(args),
            _weight_cache_of(args),
        )


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
    add_weight_flags(group)
    group.add_argument(
        "--weight-cache",
        metavar="DIR|off",
        help="keep packed weights for faster starts; unset: internvl/weights in the user's cache folder",
    )
    group.add_argument(
        "--weight-cache-gib",
        type=int,
        default=_DEFAULT_CACHE_GIB,
        metavar="GIB",
        help="most disk for them; the least recently used go first",
    )


def add_weight_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare the flags that `weights_of` reads."""
    parser.add_argument(
        "--dtype", choices=DTYPES, help="how weights are kept; unset: fp32 on cpu, bf16 on a GPU"
    )
    parser.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        help="keep the matrices as codes of 8 bits (int8: fastest, w8: closest) or 4 (w4); only on cpu",
    )


def weights_of(args: argparse.Namespace) -> str | None:
    """How weights are to be kept.

    Raises:
        ConfigError: both flags are given.
    """
    dtype: str | None = args.dtype
    quantization: str | None = args.quantize
    if dtype is not None and quantization is not None:
        raise ConfigError(f"--quantize: goes without --dtype, got {quantization} and {dtype}")
    return quantization or dtype


def weight_flags(weights: str | None) -> tuple[str, ...]:
    """The flags of `add_weight_flags` that choose this."""
    if weights is None:
        return ()
    return ("--dtype" if weights in DTYPES else "--quantize", weights)


def _weight_cache_of(args: argparse.Namespace) -> WeightCacheChoice | None:
    if args.weight_cache == "off":
        return None
    limit = args.weight_cache_gib * _GIB
    folder = Path(args.weight_cache) if args.weight_cache else user_cache("weights")
    return WeightCacheChoice(folder, limit)


def _embedded_model() -> Path:
    package = importlib.util.find_spec("models")
    folder = Path(package.origin).parent / "nano" if package and package.origin else None
    if folder is None or not (folder / "config.json").exists():
        raise ConfigError("--model: needed, because this installation holds no default model")
    return folder
