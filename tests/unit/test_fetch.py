"""`internvl fetch` against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from checkpoint_samples import write_sample
from checkpoint_server import COMMIT, REPOSITORY, Published, read_files, serve

from internvl.cli.main import main
from internvl.cli.registry import GROUP, Registry
from internvl.fetch.downloader import RetryPolicy, download_all
from internvl.fetch.huggingface import HuggingFace
from internvl.fetch.remote_file import FetchError, is_wanted

REGISTRY = Registry([EntryPoint("fetch", "internvl.cli.fetch:command", GROUP)])
AT_ONCE = RetryPolicy(attempts=3, pause_s=0, timeout_s=10)
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def no_proxy_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HF_ENDPOINT", "PPNLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_sample(tmp_path_factory.mktemp("released") / "checkpoint")
    return {**read_files(folder), "tokenizer.model": b"pieces", "added_tokens.json": b"{}"}


@pytest.fixture
def published(sample: dict[str, bytes]) -> Published:
    return Published(dict(sample))


@pytest.fixture
def address(published: Published) -> Iterator[str]:
    with serve(published) as base:
        yield base


def download(address: str, folder: Path, policy: RetryPolicy = AT_ONCE) -> list[tuple[int, int]]:
    """Fetch as the command does; gives the calls of the progress hook."""
    calls: list[tuple[int, int]] = []
    files = HuggingFace(address).files(REPOSITORY, None)
    download_all(files, folder, lambda done, total: calls.append((done, total)), policy)
    return calls


def test_the_command_fetches_checks_and_reports(
    address: str,
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.chdir(tmp_path)
    published.files |= {"modeling_evil.py": b"import os", "pytorch_model.bin": b"pickle", "README.md": b"#"}
    expected = {name: content for name, content in published.files.items() if is_wanted(name)}
    assert main(["fetch", REPOSITORY], REGISTRY) == 0
    assert read_files(tmp_path / "InternVL2-4B") == dict(sorted(expected.items()))
    printed = capsys.readouterr().out
    assert f"127.0.0.1:{address.rsplit(':', maxsplit=1)[-1]}: {REPOSITORY}, 4 files, " in printed
    assert "hashes of the 4 that have one published" in printed
    assert "hf layout, " in printed
    assert not [path for _, path, _, _ in published.requests if path.endswith((".py", ".bin", ".md"))]


def test_files_come_from_the_commit_that_was_listed(
    address: str, published: Published, tmp_path: Path
) -> None:
    download(address, tmp_path)
    assert f"/{REPOSITORY}/resolve/{COMMIT}/{WEIGHTS}" in [path for _, path, _, _ in published.requests]


def test_a_cut_connection_is_resumed_where_it_broke(
    address: str, published: Published, tmp_path: Path
) -> None:
    published.cut_after[WEIGHTS] = [1000, 5000]
    calls = download(address, tmp_path)
    assert published.ranges_asked(WEIGHTS) == [None, "bytes=1000-", "bytes=6000-"]
    assert read_files(tmp_path) == published.files
    total = sum(len(content) for content in published.files.values())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_later_run_resumes_what_an_earlier_one_left(
    address: str, published: Published, tmp_path: Path
) -> None:
    published.cut_after[WEIGHTS] = [3000, 0, 0]
    with pytest.raises(
        FetchError, match=r"model\.safetensors broke off 3 times .* the same command resumes it"
    ):
        download(address, tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    published.requests.clear()
    download(address, tmp_path)
    assert published.ranges_asked(WEIGHTS) == ["bytes=3000-"]
    assert read_files(tmp_path) == published.files


def test_progress_between_breaks_keeps_the_download_alive(
    address: str, published: Published, tmp_path: Path
) -> None:
    published.cut_after[WEIGHTS] = [2000] * 20
    download(address, tmp_path)
    assert read_files(tmp_path) == published.files


def test_a_partial_file_of_another_version_is_not_resumed(
    address: str, published: Published, tmp_path: Path
) -> None:
    published.cut_after[WEIGHTS] = [3000, 0, 0]
    with pytest.raises(FetchError):
        download(address, tmp_path)
    published.files[WEIGHTS] = published.files[WEIGHTS][:-8] + b"newer..!"
    published.requests.clear()
    download(address, tmp_path)
    assert published.ranges_asked(WEIGHTS) == [None]
    assert read_files(tmp_path) == published.files


def test_a_server_without_ranges_starts_again(address: str, published: Published, tmp_path: Path) -> None:
    published.ranges = False
    published.cut_after[WEIGHTS] = [1000]
    download(address, tmp_path)
    assert read_files(tmp_path) == published.files


def test_a_busy_server_is_asked_again(address: str, published: Published, tmp_path: Path) -> None:
    published.busy = 2
    download(address, tmp_path)
    assert read_files(tmp_path) == published.files


def test_what_is_there_and_right_is_not_fetched_again(
    address: str, published: Published, tmp_path: Path
) -> None:
    download(address, tmp_path)
    (tmp_path / "config.json").write_bytes(b"edited")
    published.requests.clear()
    download(address, tmp_path)
    assert [path.rsplit("/", 1)[1] for _, path, _, _ in published.requests if "/resolve/" in path] == [
        "config.json"
    ]
    assert read_files(tmp_path) == published.files


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_wrong_hash_is_refused_and_the_bytes_are_dropped(
    name: str, address: str, published: Published, tmp_path: Path
) -> None:
    files = HuggingFace(address).files(REPOSITORY, None)
    published.files[name] = bytes(len(published.files[name]))
    kind = "sha256" if name == WEIGHTS else "git blob"
    with pytest.raises(FetchError, match=f"{name}: wrong {kind} hash, expected [0-9a-f]+, found "):
        download_all(files, tmp_path, lambda done, total: None, AT_ONCE)
    assert not list(tmp_path.glob(f"{name}*"))


@pytest.mark.parametrize("difference", [-10, 10])
def test_a_wrong_size_is_refused(difference: int, address: str, published: Published, tmp_path: Path) -> None:
    content = published.files[WEIGHTS]
    published.announced[WEIGHTS] = (len(content) + difference, hashlib.sha256(content).hexdigest())
    with pytest.raises(
        FetchError, match=rf"{WEIGHTS}: wrong size, expected {len(content) + difference} bytes"
    ):
        download(address, tmp_path)
    assert not (tmp_path / WEIGHTS).exists()


def test_a_token_goes_to_the_host_and_not_where_it_redirects(
    published: Published, sample: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    storage = Published(dict(sample))
    with serve(storage) as elsewhere, serve(published) as address:
        published.redirect_to = elsewhere
        download(address, tmp_path)
    assert {token for *_, token in published.requests} == {"Bearer hf_secret"}
    assert {token for *_, token in storage.requests} == {None}
    assert read_files(tmp_path) == sample


def test_a_checkpoint_that_is_not_sound_fails_at_the_end(
    address: str,
    published: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    config = published.files["config.json"].replace(b'"vocab_size": 120', b'"vocab_size": 119')
    published.files["config.json"] = config
    assert main(["fetch", REPOSITORY, "--into", str(tmp_path)], REGISTRY) == 1
    assert "2 mis-shaped tensors" in capsys.readouterr().err


def test_a_disk_too_small_is_told_first(address: str, published: Published, tmp_path: Path) -> None:
    published.announced[WEIGHTS] = (10**18, "0" * 64)
    with pytest.raises(FetchError, match=r"not enough disk space: 1\d+ bytes are still to come"):
        download(address, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_endless_redirect_is_an_error(published: Published, tmp_path: Path) -> None:
    with serve(published) as address:
        files = HuggingFace(address).files(REPOSITORY, None)
        published.redirect_to = address
        with pytest.raises(FetchError, match=r"cannot send .* \(TooManyRedirects\)"):
            download_all(files, tmp_path, lambda done, total: None, AT_ONCE)
