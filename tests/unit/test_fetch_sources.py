"""Where `internvl fetch` looks: the sources, the names it accepts, and what it says when it fails."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from checkpoint_samples import PDPARAMS, write_sample
from checkpoint_server import REPOSITORY, Published, read_files, serve

from deploy.launcher.free_ports import free_ports
from internvl.checkpoint import WriteOptions
from internvl.cli.main import main
from internvl.cli.registry import GROUP, Registry
from internvl.fetch.downloader import RetryPolicy, download_all
from internvl.fetch.huggingface import HuggingFace
from internvl.fetch.paddle_bucket import PaddleBucket
from internvl.fetch.remote_file import FetchError, is_wanted, without_second_weights

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
    return read_files(write_sample(tmp_path_factory.mktemp("released") / "checkpoint"))


@pytest.mark.parametrize(
    ("source", "variable"), [("huggingface", "HF_ENDPOINT"), ("paddle", "PPNLP_ENDPOINT")]
)
def test_offline_it_says_what_it_tried_and_what_to_do(
    source: str,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv(variable, f"http://{host}")
    assert main(["fetch", REPOSITORY, "--source", source, "--into", str(tmp_path / "new")], REGISTRY) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"internvl: cannot reach {host} for {REPOSITORY}")
    assert printed.count("\n") == 1
    assert f"{variable} names a mirror" in printed
    assert "copy the folder here" in printed
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("repository", "revision", "message"),
    [
        ("OpenGVLab/InternVL9", None, "no repository OpenGVLab/InternVL9, or it is private"),
        (REPOSITORY, "v9", f"{REPOSITORY} has no revision 'v9'"),
    ],
)
def test_a_wrong_name_or_revision_is_told(
    repository: str, revision: str | None, message: str, sample: dict[str, bytes]
) -> None:
    with serve(Published(sample)) as address, pytest.raises(FetchError, match=message):
        HuggingFace(address).files(repository, revision)


@pytest.mark.parametrize("name", ["InternVL2-4B", "a/b/c", "../../etc", "https://example.com/a", "a b/c", ""])
def test_a_name_that_is_none_is_refused_before_asking(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", name], REGISTRY) == 2
    assert "is not of that form" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "tokenizer.model", "model_state.pdparams", "merges.txt"]
)
def test_wanted_files(name: str) -> None:
    assert is_wanted(name)


@pytest.mark.parametrize(
    "name",
    [
        "modeling_phi3.py",
        "pytorch_model.bin",
        "a/config.json",
        "..\\config.json",
        "other.model",
        "x.pkl",
        ".git",
    ],
)
def test_files_that_are_never_fetched(name: str) -> None:
    assert not is_wanted(name)


def test_weights_are_fetched_once() -> None:
    names = ["config.json", "model.safetensors", "model_state.pdparams", "model_state.pdparams.index.json"]
    assert without_second_weights(names) == ["config.json", "model.safetensors"]
    assert without_second_weights(names[::2]) == names[::2]


@pytest.mark.parametrize(
    "options",
    [WriteOptions(), WriteOptions(max_shard_bytes=50_000), PDPARAMS],
    ids=["one file", "shards", "pdparams"],
)
def test_the_paddle_bucket_is_asked_for_known_names(options: WriteOptions, tmp_path: Path) -> None:
    released = read_files(write_sample(tmp_path / "released", options))
    published = Published({**released, "modeling_evil.py": b"import os"})
    with serve(published) as address:
        files = PaddleBucket(address).files(REPOSITORY, None)
        download_all(files, tmp_path / "fetched", lambda done, total: None, AT_ONCE)
    assert read_files(tmp_path / "fetched") == released
    assert ("HEAD", f"/models/community/{REPOSITORY}/config.json", None, None) in published.requests


def test_a_cut_download_from_the_bucket_is_resumed(sample: dict[str, bytes], tmp_path: Path) -> None:
    published = Published(dict(sample), cut_after={WEIGHTS: [1234]})
    with serve(published) as address:
        download_all(
            PaddleBucket(address).files(REPOSITORY, None), tmp_path, lambda done, total: None, AT_ONCE
        )
    assert published.ranges_asked(WEIGHTS) == [None, "bytes=1234-"]
    assert read_files(tmp_path) == dict(sorted(sample.items()))


def test_the_bucket_names_what_it_lacks(sample: dict[str, bytes]) -> None:
    with serve(Published({"config.json": sample["config.json"]})) as address:
        bucket = PaddleBucket(address)
        with pytest.raises(FetchError, match=r"has no weights; looked for model\.safetensors\.index\.json, "):
            bucket.files(REPOSITORY, None)
        with pytest.raises(FetchError, match=r"no config\.json under models/community/OpenGVLab/Other"):
            bucket.files("OpenGVLab/Other", None)
        with pytest.raises(FetchError, match="leave out --revision"):
            bucket.files(REPOSITORY, "main")


def test_an_index_in_the_bucket_cannot_lead_elsewhere(sample: dict[str, bytes]) -> None:
    index = b'{"weight_map": {"a": "../../secret.json"}}'
    published = Published({"config.json": sample["config.json"], "model.safetensors.index.json": index})
    with serve(published) as address, pytest.raises(FetchError, match="is not a file of weights"):
        PaddleBucket(address).files(REPOSITORY, None)
