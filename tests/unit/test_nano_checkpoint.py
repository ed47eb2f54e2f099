"""The committed nano checkpoint: whole, small, in step with its recipe, and able."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.recipe import runtime

runtime.apply()

from internvl.checkpoint.reader import open_checkpoint
from internvl.model_config import read_model_config
from models.recipe.demo import DEMOS, NANO, demo_cases
from models.recipe.evaluate import Evaluator
from models.recipe.export import model_config
from models.recipe.heldout import SKILLS, make_case
from models.recipe.sizes import Shape
from models.recipe.tokens import Tokenizer, build_tokenizer, tokenizer_files

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(NANO)


def test_it_is_small() -> None:
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * MEGABYTE
    assert sum(path.stat().st_size for path in files if path.parent.name == "demo") < 0.3 * MEGABYTE


def test_every_tensor_is_there_and_finite() -> None:
    tensors = dict(open_checkpoint(NANO, read_model_config(NANO)).tensors())
    assert len(tensors) == 93
    assert all(np.isfinite(np.asarray(array, np.float32)).all() for array in tensors.values())


def test_its_text_files_are_what_the_recipe_writes(tmp_path: Path) -> None:
    build_tokenizer(tmp_path / "tokenizer.model")
    assert (tmp_path / "tokenizer.model").read_bytes() == (NANO / "tokenizer.model").read_bytes()
    tokenizer = Tokenizer(NANO / "tokenizer.model")
    assert json.loads((NANO / "config.json").read_text()) == model_config(Shape(tokenizer.size), tokenizer)
    for name, text in tokenizer_files(tokenizer.size).items():
        assert (NANO / name).read_text() == text


def test_the_demonstration_is_answered_right(evaluator: Evaluator) -> None:
    cases = demo_cases(NANO / "demo")
    assert [
        case.turns[-1] for case, right in zip(cases, evaluator.exact(cases), strict=True) if not right
    ] == []


def test_demo_json_is_the_one_of_the_recipe() -> None:
    stored = json.loads((NANO / "demo" / "demo.json").read_text())
    assert [item["name"] for item in stored] == [demo.name for demo in DEMOS]
    assert all((NANO / "demo" / name).is_file() for demo in DEMOS for name in demo.files)


def test_it_answers_held_out_cases(evaluator: Evaluator) -> None:
    right = [good for skill in SKILLS for good in evaluator.exact([make_case(skill, n) for n in range(8)])]
    assert sum(right) / len(right) >= 0.88


def test_small_text_needs_the_tiles(evaluator: Evaluator) -> None:
    cases = [make_case("small_text", number) for number in range(24)]
    assert sum(evaluator.exact(cases)) >= 18
    assert sum(evaluator.exact(cases, max_tiles=1)) <= 8
