"""Opening a checkpoint: is everything there, in which layout, and the tensors one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from internvl.checkpoint.fingerprints import FileIdentity, FingerprintStore
from internvl.checkpoint.layout import Layout, LayoutDecision, decide_layout, reorient, stored_shape
from internvl.checkpoint.pdparams_shard import PdparamsShard
from internvl.checkpoint.progress import ProgressHook
from internvl.checkpoint.quantised import assembled, stored_specs
from internvl.checkpoint.read_ahead import read_ahead
from internvl.checkpoint.safetensors_shard import SafetensorsShard
from internvl.checkpoint.shards import Shard, TensorEntry, find_shard_files
from internvl.checkpoint.tensor_specs import TensorKind, TensorSpec, expected_tensors
from internvl.checkpoint.weight_format import Weight, WeightFormat
from internvl.errors import CheckpointError
from internvl.model_config import InternVLConfig

WEIGHT_DTYPES = ("bfloat16", "float16", "float32")

_LISTED_AT_MOST = 100

_CODED = LayoutDecision(Layout.HF, ("codes are held in hf orientation only",))


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds, sound or not.

    Attributes:
        files: of the weights, as they were before anything was read.
        form: how matrices are held; codes have names of their own (`quantised.py`).
        model: what the model consists of.
        expected: what the files must hold.
        decision: the layout, or None when the evidence is contradictory or missing.
        problems: one sentence for each kind of problem, with the tensors concerned; empty if sound.
    """

    config: InternVLConfig
    paths: tuple[Path, ...]
    files: FileIdentity
    shards: tuple[Shard, ...]
    form: WeightFormat
    model: Mapping[str, TensorSpec]
    expected: Mapping[str, TensorSpec]
    entries: Mapping[str, TensorEntry]
    decision: LayoutDecision | None
    problems: tuple[str, ...]


class Checkpoint:
    """A sound checkpoint. Whatever the files' layout, tensors leave it with Hugging Face names and shapes."""

    def __init__(
        self, survey: Survey, decision: LayoutDecision, fingerprints: FingerprintStore | None = None
    ) -> None:
        self._survey = survey
        self._store = fingerprints
        self._fingerprints: dict[tuple[str, ...], str] = {}
        self.config = survey.config
        self.layout: Layout = decision.layout
        self.evidence = decision.evidence

    def entries(self, prefix: str | tuple[str, ...] = "") -> list[TensorEntry]:
        """The tensors whose name starts with `prefix`, as stored, in the order of `tensors`."""
        entries = self._survey.entries
        return [entry for name, entry in entries.items() if name.startswith(prefix)]

    def specs(self, prefix: str | tuple[str, ...] = "") -> list[TensorSpec]:
        """Name, Hugging Face shape and kind of the same tensors, in the same order."""
        return [self._survey.expected[entry.name] for entry in self.entries(prefix)]

    def tensors(
        self, prefix: str | tuple[str, ...] = "", progress: ProgressHook | None = None
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield (name, array) shard by shard, as stored; bfloat16 arrays have the ml_dtypes dtype.

        Beyond what the caller keeps, memory never holds more than one shard. From a Paddle file, a Linear
        weight is a transposed view: `array.T` is the contiguous [in, out] matrix again, without a copy.

        Raises:
            CheckpointError: a file changed or broke since the checkpoint was opened.
        """
        wanted = {entry.name for entry in self.entries(prefix)}
        total = sum(entry.nbytes for entry in self.entries(prefix))
        done = 0
        for shard in self._survey.shards:
            for name, array in shard.read(wanted.intersection(shard.entries)):
                done += array.nbytes
                yield name, reorient(array, self._survey.expected[name], self.layout)
                if progress is not None:
                    progress(done, total)

    def load(
        self, prefix: str | tuple[str, ...] = "", progress: ProgressHook | None = None
    ) -> Iterator[tuple[str, Weight]]:
        """The tensors of the model, with `Codes` for matrices that are held so.

        For whoever works on each: the next one is read meanwhile, and `fingerprint` is known afterwards.
        Memory holds up to three tensors beyond what the caller keeps.
        """
        tensors = read_ahead(self.tensors(prefix, progress))
        if self.known_fingerprint(prefix) is None:
            tensors = self._hashed(prefix, tensors)
        return assembled(tensors, self._survey.model, self._survey.form)

    def forget(self, name: str) -> None:
        """Have the system give up the memory that it keeps of a tensor for whoever reads it again."""
        names = {entry.name for entry in self.entries(name)}
        for shard in self._survey.shards:
            shard.forget(names.intersection(shard.entries))

    def _hashed(
        self, prefix: str | tuple[str, ...], tensors: Iterator[tuple[str, NDArray[Any]]]
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Pass all tensors under `prefix` on, and keep their fingerprint at the end."""
        digests: dict[str, Future[bytes]] = {}
        latest: Future[bytes] | None = None
        with ThreadPoolExecutor(1, "fingerprint") as hasher:
            for name, array in tensors:
                if latest is not None:
                    latest.result()  # or arrays that wait to be hashed would pile up
                latest = digests[name] = hasher.submit(_digest, name, array)
                yield name, array
        self._keep(prefix, {name: digest.result() for name, digest in digests.items()})

    def fingerprint(self, prefix: str | tuple[str, ...] = "") -> str:
        """SHA-256 over names, shapes, dtypes and every byte of the tensors under `prefix`.

        It names the weights, not the files: both layouts and any sharding of the same weights agree.
        Costs one read of those tensors, unless `load` has read them or `known_fingerprint` has it.
        """
        if self.known_fingerprint(prefix) is None:
            for _ in self.load(prefix):
                pass
        return self._fingerprints[_parts(prefix)]

    def known_fingerprint(self, prefix: str | tuple[str, ...] = "") -> str | None:
        """The fingerprint if it takes no reading: from `load`, or from an earlier read of the same files."""
        parts = _parts(prefix)
        if parts not in self._fingerprints and self._store is not None:
            found = self._store.find(self._survey.files, parts)
            if found is not None:
                self._fingerprints[parts] = found
        return self._fingerprints.get(parts)

    def _keep(self, prefix: str | tuple[str, ...], digests: Mapping[str, bytes]) -> None:
        parts = _parts(prefix)
        together = hashlib.sha256(b"".join(digests[name] for name in sorted(digests))).hexdigest()
        self._fingerprints[parts] = together
        if self._store is not None and FileIdentity.of(self._survey.paths) == self._survey.files:
            self._store.keep(self._survey.files, parts, together)


def open_checkpoint(
    folder: Path, config: InternVLConfig, fingerprints: FingerprintStore | None = None
) -> Checkpoint:
    """Check a folder's weights against `config`, reading tables only.

    Args:
        fingerprints: where those of earlier reads are kept; None hashes anew.

    Raises:
        CheckpointError: no weights, unreadable files, an undecidable layout, or tensors that are missing,
            surplus, mis-shaped or of another dtype; the message lists them.
    """
    survey = survey_checkpoint(folder, config)
    if survey.decision is None or survey.problems:
        raise CheckpointError(". ".join(survey.problems))
    return Checkpoint(survey, survey.decision, fingerprints)


def survey_checkpoint(folder: Path, config: InternVLConfig) -> Survey:
    """Look at a folder's weights and note every problem instead of raising at the first.

    Raises:
        CheckpointError: there are no readable weights to look at.
    """
    files = find_shard_files(folder)
    identity = FileIdentity.of(files.paths)
    shards = tuple(_open_shard(path) for path in files.paths)
    problems = [*_index_problems(shards, files.weight_map), *_repeated(shards)]
    entries = {
        name: entry
        for shard in shards
        for name, entry in shard.entries.items()
        if not name.endswith("rotary_emb.inv_freq")
    }
    model, form = expected_tensors(config), WeightFormat(config.weight_format or WeightFormat.FLOAT32)
    expected = {each.name: each for spec in model.values() for each in stored_specs(spec, form)}
    try:
        decision = _CODED if form.levels else decide_layout(entries, expected, shards)
    except CheckpointError as error:
        decision = None
        problems.append(str(error))
    problems.extend(_tensor_problems(entries, expected, decision))
    return Survey(
        config, files.paths, identity, shards, form, model, expected, entries, decision, tuple(problems)
    )


def _open_shard(path: Path) -> Shard:
    return SafetensorsShard(path) if path.suffix == ".safetensors" else PdparamsShard(path)


def _index_problems(shards: Iterable[Shard], weight_map: Mapping[str, str]) -> Iterator[str]:
    if not weight_map:
        return
    held = {name: shard.name for shard in shards for name in shard.entries}
    misplaced = [
        f"{name} (index: {weight_map.get(name, 'absent')}, found: {held.get(name, 'nowhere')})"
        for name in sorted(weight_map.keys() | held.keys())
        if weight_map.get(name) != held.get(name)
    ]
    if misplaced:
        yield _listing("tensors not where the index says", misplaced)


def _repeated(shards: Iterable[Shard]) -> Iterator[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for shard in shards:
        twice |= seen & shard.entries.keys()
        seen |= shard.entries.keys()
    if twice:
        yield _listing("tensors held by more than one file", sorted(twice))


def _tensor_problems(
    entries: Mapping[str, TensorEntry], expected: Mapping[str, TensorSpec], decision: LayoutDecision | None
) -> Iterator[str]:
    missing = [name for name in expected if name not in entries]
    if missing:
        yield _listing("missing tensors", missing)
    surplus = sorted(name for name in entries if name not in expected)
    if surplus:
        yield _listing("surplus tensors", surplus)
    present = [entry for entry in entries.values() if entry.name in expected]
    if decision is not None:
        misshaped = list(_misshaped(present, expected, decision.layout))
        if misshaped:
            yield _listing("mis-shaped tensors", misshaped)
    codes = [entry for entry in present if expected[entry.name].kind is TensorKind.CODES]
    weights = [entry for entry in present if expected[entry.name].kind is not TensorKind.CODES]
    yield from _foreign(weights, WEIGHT_DTYPES)
    yield from _foreign(codes, ("uint8",))


def _foreign(entries: Iterable[TensorEntry], dtypes: tuple[str, ...]) -> Iterator[str]:
    foreign = [f"{entry.name} ({entry.dtype})" for entry in entries if entry.dtype not in dtypes]
    if foreign:
        yield _listing(f"tensors whose dtype is none of {', '.join(dtypes)}", foreign)


def _misshaped(
    entries: Iterable[TensorEntry], expected: Mapping[str, TensorSpec], layout: Layout
) -> Iterator[str]:
    for entry in entries:
        shape = stored_shape(expected[entry.name], layout)
        if entry.shape != shape:
            yield f"{entry.name} (expected {list(shape)}, found {list(entry.shape)})"


def _listing(what: str, items: list[str]) -> str:
    more = len(items) - _LISTED_AT_MOST
    tail = f" and {more} more" if more > 0 else ""
    return f"{len(items)} {what}: {', '.join(items[:_LISTED_AT_MOST])}{tail}"


def _parts(prefix: str | tuple[str, ...]) -> tuple[str, ...]:
    return (prefix,) if isinstance(prefix, str) else tuple(sorted(prefix))


def _digest(name: str, array: NDArray[Any]) -> bytes:
    digest = hashlib.sha256(f"{name} {array.dtype.name} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()
