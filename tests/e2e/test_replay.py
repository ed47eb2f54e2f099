"""`internvl replay`: a request of the running system, run again from the file that its client wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.launcher.config import LaunchConfig
from deploy.launcher.stack import Stack, launch
from internvl_client import Client
from tests.e2e.conftest import internvl
from tests.unit.llm_samples import write_tiny_model

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
PICTURE = NANO / "demo" / "shapes.png"
OTHER = NANO / "demo" / "stars.png"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with launch(LaunchConfig(model=NANO, ports=None, threads=1)) as running:
        yield running


@pytest.fixture(scope="module")
def bundles(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of a question about a picture and of several answers to a text."""
    folder = tmp_path_factory.mktemp("bundles")
    options: dict[str, dict[str, Any]] = {
        "picture": {"images": [PICTURE]},
        "several": {"n": 3, "temperature": 1.5, "max_tokens": 12, "json_schema": {"type": "string"}},
    }
    with Client(stack.gateway_address) as client:
        for name, asked in options.items():
            answer = client.chat("What is shown?", replay_bundle=True, **asked).result()
            assert answer.replay_bundle is not None
            (folder / name).write_bytes(answer.replay_bundle)
    return {name: folder / name for name in options}


def changed(bundle: Path, folder: Path, change: Callable[[Any], None]) -> str:
    """The file of a bundle with a change."""
    document = json.loads(bundle.read_text())
    change(document)
    file = folder / "changed.json"
    file.write_text(json.dumps(document))
    return str(file)


def test_a_picture_is_seen_again(bundles: dict[str, Path]) -> None:
    replay = internvl("replay", str(bundles["picture"]), "--media", str(OTHER), str(PICTURE))
    assert replay.returncode == 0, replay.stderr
    assert "tokens agree" in replay.stdout
    assert "greedy" in replay.stdout


def test_several_seeded_answers_come_again(bundles: dict[str, Path]) -> None:
    replay = internvl("replay", str(bundles["several"]))
    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert replay.stdout.count("tokens agree") == 3


def test_a_vision_service_that_runs_can_be_named(bundles: dict[str, Path], stack: Stack) -> None:
    replay = internvl(
        "replay", str(bundles["picture"]), "--media", str(PICTURE), "--vision", stack.vision_address
    )
    assert replay.returncode == 0, replay.stderr


def test_a_token_that_differs_is_told_with_its_place(bundles: dict[str, Path], tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["choices"][1]["token_ids"][2] += 1

    replay = internvl("replay", changed(bundles["several"], tmp_path, change))
    assert replay.returncode == 1, replay.stderr
    assert "answer 2: differs from token 3 on" in replay.stdout
    assert replay.stdout.count("tokens agree") == 2


def test_weights_are_kept_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    kept = LaunchConfig(model=NANO, ports=None, threads=1, weights="w8")
    with launch(kept) as stack, Client(stack.gateway_address) as client:
        answer = client.chat("What is shown?", images=[PICTURE], replay_bundle=True).result()
    assert answer.replay_bundle is not None
    file.write_bytes(answer.replay_bundle)
    alike = internvl("replay", str(file), "--media", str(PICTURE))
    assert alike.returncode == 0, alike.stdout + alike.stderr
    otherwise = internvl("replay", str(file), "--media", str(PICTURE), "--dtype", "bf16")
    assert otherwise.returncode == 2
    assert "weights kept as w8, here they are kept as bf16: give --quantize w8" in otherwise.stderr


@pytest.mark.parametrize("then", ["native of tomorrow", "paddle", ""])
def test_other_operators_are_told(bundles: dict[str, Path], tmp_path: Path, then: str) -> None:
    now = json.loads(bundles["several"].read_text())["machine"]["operators"]
    file = changed(bundles["several"], tmp_path, lambda document: document["machine"].update(operators=then))
    told = [line for line in internvl("replay", file).stdout.splitlines() if line.startswith("operators:")]
    if then in ("", now):
        assert not told
    else:
        assert told[0].startswith(f"operators: {then} then, {now} now")
        assert ("python -m kernels.native" in told[0]) == (now == "paddle")
        assert ("INTERNVL_NATIVE=off" in told[0]) == (then == "paddle")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda document: document.update(version=99), "version 1"),
        (lambda document: document.update(surprise=1), "surprise"),
        (lambda document: document.update(prompt_ids=[10**6]), "prompt_ids: must be below"),
        (lambda document: document["choices"].pop(), "choices: must be 3"),
        (lambda document: document["model"].update(kv_dtype="fp8"), "model.kv_dtype"),
        (lambda document: document["machine"].update(weights="fp8"), "machine.weights: must be one of"),
        (lambda document: document["sampling"].update(top_p=7), "top_p: must be above 0 to 1"),
    ],
)
def test_a_bundle_that_cannot_be_run_is_told_in_one_line(
    bundles: dict[str, Path], tmp_path: Path, change: Callable[[Any], None], problem: str
) -> None:
    replay = internvl("replay", changed(bundles["several"], tmp_path, change))
    assert replay.returncode == 2
    assert problem in replay.stderr
    assert len(replay.stderr.splitlines()) == 1


def test_other_weights_and_other_pictures_are_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path / "tiny")
    weights = internvl("replay", str(bundles["several"]), "--model", str(tiny))
    picture = internvl("replay", str(bundles["picture"]), "--media", str(OTHER))
    nothing = internvl("replay", str(bundles["picture"]))
    missing = internvl("replay", str(tmp_path / "none.json"))
    assert {run.returncode for run in (weights, picture, nothing, missing)} == {2}
    assert "made with other weights: nano" in weights.stderr
    assert "no file gives the embeddings of picture 1" in picture.stderr
    assert "--media: needed" in nothing.stderr
