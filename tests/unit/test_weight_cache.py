"""Packed weights on disk: what comes back, and what damage, limits and other processes do."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from internvl.checkpoint import Checkpoint
from internvl.checkpoint.fingerprints import FileIdentity, FingerprintStore
from internvl.checkpoint.safetensors_shard import SafetensorsShard
from internvl.model_choice import ModelChoice, WeightCacheChoice
from kernels.mapped_file import MappedFile
from kernels.native.library import Library
from kernels.weight_cache import WeightCache
from llm_service.loading import open_device, open_model
from llm_service.model.batch import Chunk
from llm_service.model.rope import RopeRegime
from vision_service.loading import open_model as open_vision

NANO = Path(__file__).parents[2] / "models/nano"
BLOBS = {
    name: np.random.default_rng(size).integers(0, 256, size, np.uint8)
    for name, size in (("a", 1), ("b", 5_000_000), ("c", 4096))
}
SIZES = {name: blob.nbytes for name, blob in BLOBS.items()}
WAIT_S = 60


def room(name: str) -> np.ndarray:
    return np.empty(SIZES[name], np.uint8)


def kept(cache: WeightCache, key: str = "k") -> Path:
    cache.write(key, BLOBS).join(WAIT_S)
    return cache.folder / f"{key}.weights"


@pytest.fixture(params=["pages of the file", "copies"])
def cache(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> WeightCache:
    """Each test runs both ways, whatever pages the file system here has."""
    monkeypatch.setattr(MappedFile, "is_in_large_pages", lambda _: request.param == "pages of the file")
    return WeightCache(tmp_path / "cache", 1 << 30)


def test_what_was_kept_comes_back(cache: WeightCache) -> None:
    assert cache.read("k", SIZES, room) is None
    kept(cache)
    found = cache.read("k", SIZES, room)
    assert found is not None
    for name, blob in BLOBS.items():
        np.testing.assert_array_equal(found[name], blob)
    assert cache.read("other", SIZES, room) is None


def test_what_one_reader_changes_another_does_not_see(cache: WeightCache) -> None:
    kept(cache)
    first, second = (cache.read("k", SIZES, room) for _ in range(2))
    assert first is not None
    assert second is not None
    first["b"][:] = 0
    np.testing.assert_array_equal(second["b"], BLOBS["b"])
    third = cache.read("k", SIZES, room)
    assert third is not None
    np.testing.assert_array_equal(third["b"], BLOBS["b"])


def test_what_was_read_outlives_its_file(cache: WeightCache) -> None:
    path = kept(cache)
    found = cache.read("k", SIZES, room)
    path.unlink()
    assert found is not None
    np.testing.assert_array_equal(found["b"], BLOBS["b"])


def test_a_file_that_is_shorter_than_it_was_is_an_error_and_no_signal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * mmap.PAGESIZE)
    with path.open("rb") as file:
        mapped = MappedFile(file.fileno())
        os.truncate(path, mmap.PAGESIZE)
        with pytest.raises(OSError, match=r"."):
            mapped.fetch(mmap.PAGESIZE, 3 * mmap.PAGESIZE)


def flip(offset: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[offset] ^= 1
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        flip(-1),
        flip(-4097),
        flip(-3_000_000),
        flip(0),
        flip(40),
        flip(9),
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:100],
        lambda content: b"",
        lambda content: b"\0" * len(content),
    ],
)
def test_a_damaged_file_is_dropped_and_written_anew(
    cache: WeightCache, damage: Callable[[bytes], bytes]
) -> None:
    path = kept(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read("k", SIZES, room) is None
    assert not path.exists()
    kept(cache)
    assert cache.read("k", SIZES, room) is not None


def test_a_file_of_other_weights_is_not_taken(cache: WeightCache) -> None:
    kept(cache).rename(cache.folder / "other.weights")
    assert cache.read("other", SIZES, room) is None
    kept(cache)
    assert cache.read("k", {"a": 1, "c": 4096, "b": 5_000_000}, room) is None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path, 2 * sum(SIZES.values()) + 2 * 4096 * 2)
    for age, key in enumerate(("new", "old", "older")[:2]):
        os.utime(kept(cache, key), (1e9 - age, 1e9 - age))
    assert cache.read("old", SIZES, room) is not None  # now the younger of the two
    kept(cache, "third")
    assert sorted(path.stem for path in tmp_path.glob("*.weights")) == ["old", "third"]


def test_what_is_over_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path, 1000)
    assert not kept(cache).exists()
    assert list(tmp_path.iterdir()) == []


def test_while_one_process_writes_the_others_leave_it_to_that_one(cache: WeightCache) -> None:
    cache.folder.mkdir()
    with (cache.folder / "k.weights.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"begun")
        other.flush()
        assert not kept(cache).exists()
        assert (cache.folder / "k.weights.partial").read_bytes() == b"begun"
    assert kept(cache).exists()  # the other one has died
    assert cache.read("k", SIZES, room) is not None


def test_many_at_once_leave_one_whole_file(cache: WeightCache) -> None:
    for thread in [cache.write("k", BLOBS) for _ in range(8)]:
        thread.join(WAIT_S)
    assert [path.name for path in cache.folder.iterdir()] == ["k.weights"]
    assert cache.read("k", SIZES, room) is not None


def test_what_nobody_finished_is_cleared_away(cache: WeightCache) -> None:
    cache.folder.mkdir()
    (cache.folder / "dead.partial").write_bytes(b"begun")
    kept(cache)
    assert [path.name for path in cache.folder.iterdir()] == ["k.weights"]


def test_a_folder_that_cannot_be_used_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = WeightCache(tmp_path / "file", 1 << 30)
    kept(cache)
    assert cache.read("k", SIZES, room) is None


def test_a_fingerprint_is_known_again_for_the_same_files_only(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    store = FingerprintStore(tmp_path / "fingerprints")
    before = FileIdentity(FileIdentity.of([file]).key, settled=True)
    store.keep(before, ["a."], "0" * 64)
    assert store.find(before, ["a."]) == "0" * 64
    assert store.find(before, ["b."]) is None
    times = file.stat()
    file.write_bytes(b"two")  # as long as before, and as old as it claims:
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.find(FileIdentity(FileIdentity.of([file]).key, settled=True), ["a."]) is None


def test_files_that_were_just_written_are_hashed_each_time(tmp_path: Path) -> None:
    """They could change again within the same tick of the file system's clock."""
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    identity = FileIdentity.of([file])
    assert not identity.settled
    store = FingerprintStore(tmp_path / "fingerprints")
    store.keep(identity, ["a."], "0" * 64)
    assert store.find(identity, ["a."]) is None


def test_a_second_start_packs_nothing_and_computes_the_same(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.dispatch.open_library", lambda: library)
    choice = ModelChoice(NANO, weights="w4", weight_cache=WeightCacheChoice(tmp_path))
    ids = np.arange(3, 60, dtype=np.int64)
    logits, embeddings, fingerprints = [], [], []
    for start in range(2):
        if start:
            monkeypatch.setattr(Checkpoint, "tensors", _must_not_be_read)
        vision = open_vision(choice)
        side = vision.tiling.tile_size
        tiles = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
        embeddings.append(vision.load_encoder("cpu", None).encode(tiles))
        loaded = open_model(choice)
        decoder = loaded.load_decoder(open_device(choice, loaded.config))
        decoder.open_cache(8, 16)
        chunk = Chunk(ids, (), 0, range(8), RopeRegime.SHORT)
        logits.append(decoder.forward([chunk])[0])
        fingerprints.append((loaded.fingerprint, vision.identity))
        _wait_for_writers()
    assert len(list(tmp_path.glob("*.weights"))) == 2
    np.testing.assert_array_equal(*logits)
    np.testing.assert_array_equal(*embeddings)
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("limit", [None, 1000, 1 << 30])
def test_files_are_forgotten_only_if_what_was_packed_is_kept(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr("kernels.dispatch.open_library", lambda: library)
    forgotten: list[str] = []
    monkeypatch.setattr(SafetensorsShard, "forget", lambda shard, names: forgotten.extend(names))
    cache = None if limit is None else WeightCacheChoice(tmp_path, limit)
    choice = ModelChoice(NANO, weights="w4", weight_cache=cache)
    loaded = open_model(choice)
    loaded.load_decoder(open_device(choice, loaded.config))
    _wait_for_writers()
    with safe_open(NANO / "model.safetensors", "np") as file:
        language = {name for name in file.keys() if name.startswith("language_model.")}  # noqa: SIM118
    assert set(forgotten) == (language if limit == 1 << 30 else set())


def _must_not_be_read(*_: object) -> Iterator[None]:
    raise AssertionError("the checkpoint was read")
    yield


def _wait_for_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "weight-cache":
            thread.join(WAIT_S)
