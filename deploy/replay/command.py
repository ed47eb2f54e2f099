"""`internvl replay`: run the request of a replay bundle again and compare the tokens."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from deploy.launcher.stack import LaunchError
from deploy.replay.media import Tiles, encode_media, local_vision
from internvl.cli import Command
from internvl.errors import CheckpointError, ConfigError, ServingError
from internvl.model_choice import DTYPES, QUANTIZATIONS, ModelChoice, add_model_flags
from internvl.v1 import replay_pb2
from llm_service.replay import Comparison, Replay
from llm_service.replay_bundle import read_bundle, this_machine
from llm_service.text.pieces import Piece


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "Exit status: 0 if all tokens agree, 1 if some differ, 2 if the bundle cannot be run here."
    )
    parser.add_argument(
        "bundle", type=Path, metavar="FILE", help="what `internvl chat --replay-bundle` wrote"
    )
    parser.add_argument(
        "--media",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="the pictures and films of the prompt, in any order",
    )
    parser.add_argument(
        "--vision", metavar="TARGET", help="vision service to encode them (default: one is started here)"
    )
    add_model_flags(parser)


def run(arguments: Namespace) -> int:
    """Replay: 0 if all tokens agree, 1 if some differ.

    Raises:
        ConfigError: the bundle cannot be run here, for whatever reason.
    """
    try:
        bundle = read_bundle(arguments.bundle.read_bytes())
        choice = _choice(ModelChoice.from_args(arguments), bundle.machine)
        replay = Replay(bundle, choice)
        print(_describe(bundle))
        comparisons = replay.run(_tiles(bundle, arguments.media, arguments.vision, choice))
    except (CheckpointError, LaunchError, OSError, ServingError) as error:
        raise ConfigError(str(error)) from error  # 1 means that tokens differ
    for line in (*_surroundings(bundle.machine, choice), *_verdicts(comparisons, replay.tokenizer.pieces)):
        print(line)
    return 0 if all(comparison.first_difference is None for comparison in comparisons) else 1


command = Command(
    "replay", "Run a request again from its replay bundle and compare the tokens.", configure, run
)


def _choice(choice: ModelChoice, machine: replay_pb2.ReplayMachine) -> ModelChoice:
    """As what made the answer, unless told otherwise: the number of threads decides how sums are cut."""
    return replace(
        choice,
        threads=choice.threads or machine.threads or None,
        weights=choice.weights or _weights(machine),
    )


def _weights(machine: replay_pb2.ReplayMachine) -> str | None:
    """How the bundle's weights were kept; a file may hold anything.

    Raises:
        ConfigError: in no way that there is.
    """
    if machine.weights in ("", *DTYPES, *QUANTIZATIONS):
        return machine.weights or None
    raise ConfigError(
        f"replay bundle: machine.weights: must be one of {', '.join((*DTYPES, *QUANTIZATIONS))}"
    )


def _tiles(
    bundle: replay_pb2.ReplayBundle, files: Sequence[Path], vision: str | None, choice: ModelChoice
) -> Tiles:
    if not bundle.visuals:
        return {}
    if not files:
        raise ConfigError(
            f"--media: needed for {len(bundle.visuals)} pictures or films; a bundle only names them"
        )
    if vision is not None:
        return encode_media(vision, files, bundle.visuals)
    config = LaunchConfig(model=choice.folder, device=choice.device, weights=choice.weights, ports=None)
    with local_vision(config) as address:
        return encode_media(address, files, bundle.visuals)


def _describe(bundle: replay_pb2.ReplayBundle) -> str:
    sampling = bundle.sampling
    chosen = (
        f"temperature {sampling.temperature:g}, seed {sampling.seed}" if sampling.temperature else "greedy"
    )
    visual = sum(slot.length for slot in bundle.slots)
    return (
        f"request {bundle.request_id}: {len(bundle.prompt_ids)} prompt tokens "
        f"({visual} visual, {bundle.cached_tokens} cached then), {chosen}\n"
        f"{bundle.model.model_name}, keys and values {bundle.model.kv_dtype}, "
        f"{'batch-invariant' if bundle.model.batch_invariant else 'not batch-invariant'}"
    )


def _surroundings(then: replay_pb2.ReplayMachine, choice: ModelChoice) -> Iterator[str]:
    """What is not as it was, and may explain a difference."""
    now = this_machine(choice)
    for name in ("device", "processor", "threads"):
        old, new = getattr(then, name), getattr(now, name)
        if old != new:
            yield f"{name}: {old} then, {new} now"
    if then.operators not in ("", now.operators):  # bundles did not tell at first
        yield f"operators: {then.operators} then, {now.operators} now{_advice(then.operators, now.operators)}"
    for package in sorted({*then.packages, *now.packages}):
        old, new = then.packages.get(package, "none"), now.packages.get(package, "none")
        if old != new:
            yield f"{package}: {old} then, {new} now"


def _advice(then: str, now: str) -> str:
    """How to compute with the operators of then, where that is for the user to say."""
    if now == "paddle":
        return "; python -m kernels.native builds the native ones"
    return "; INTERNVL_NATIVE=off computes without native ones" if then == "paddle" else ""


def _verdicts(comparisons: Sequence[Comparison], pieces: Sequence[Piece]) -> Iterator[str]:
    for number, comparison in enumerate(comparisons):
        name = f"answer {number + 1}" if len(comparisons) > 1 else "the answer"
        place = comparison.first_difference
        if place is None:
            yield f"{name}: all {len(comparison.expected)} tokens agree"
        else:
            then, now = (_token(ids, place, pieces) for ids in (comparison.expected, comparison.found))
            yield f"{name}: differs from token {place + 1} on: {then} then, {now} now"


def _token(ids: Sequence[int], place: int, pieces: Sequence[Piece]) -> str:
    if place >= len(ids):
        return "the end"
    text = pieces[ids[place]].own_bytes if ids[place] < len(pieces) else b""
    return f"{ids[place]} {text.decode(errors='backslashreplace')!r}"
