"""The recipe of nano: drawings, labels, tokenizer, seeds, tiles."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from internvl.model_config import parse_model_config
from models.recipe import seeds, tiles
from models.recipe.drawing import CHARACTERS, SHAPES, Canvas
from models.recipe.export import model_config
from models.recipe.heldout import SKILLS, draw_case, make_case
from models.recipe.scene_parts import FULL
from models.recipe.sizes import Shape
from models.recipe.tasks import TASKS, batch_of_scenes
from models.recipe.tokens import ADDED_TOKENS, SYSTEM_TEXT, Tokenizer, build_tokenizer, tokenizer_files
from models.recipe.video import decode_video, frame_indices
from vision_service.preprocessing import cut_tiles, normalise
from vision_service.tiling import TilingOptions, plan_image


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    build_tokenizer(path)
    return Tokenizer(path)


@pytest.mark.parametrize("skill", SKILLS)
def test_a_held_out_case_is_fixed_by_its_number(skill: str) -> None:
    assert make_case(skill, 3) == make_case(skill, 3)
    assert len({make_case(skill, n).turns for n in range(12)}) > 1


def test_training_and_held_out_streams_differ() -> None:
    keys = [
        (purpose, a, b)
        for purpose in (seeds.TRAINING, seeds.HELD_OUT, seeds.DEMO)
        for a in range(3)
        for b in range(3)
    ]
    draws = {tuple(seeds.stream(*key).integers(0, 2**63, 2)) for key in keys}
    assert len(draws) == len(keys)


@pytest.mark.parametrize("task", TASKS)
def test_scenes_repeat_with_their_seed(task: str) -> None:
    one, two = (batch_of_scenes(seeds.stream(seeds.TRAINING, 5), task, FULL, 0.2) for _ in range(2))
    assert [s.dialogues for s in one] == [s.dialogues for s in two]
    for a, b in zip(one, two, strict=True):
        assert [p.image.tobytes() for p in a.pictures] == [p.image.tobytes() for p in b.pictures]


def test_labels_mark_what_was_drawn() -> None:
    canvas = Canvas(seeds.stream(seeds.TRAINING, 0), 112, 112, dark=False)
    canvas.shape("heart", "red", 84, 84, 20)
    canvas.text("7", "SourceSans", 40, 28, 28, "black")
    labels = tiles.tile_labels(canvas.finish())[0].reshape(8, 8, 4)
    assert set(labels[4:, 4:, 0].flat) == {0, SHAPES.index("heart") + 1}
    assert labels[6, 6, 0] == SHAPES.index("heart") + 1
    assert set(labels[:4, :4, 2].flat) == {0, CHARACTERS.index("7") + 1}
    assert labels[:4, :4, 3].max() == 1
    assert not labels[:4, 4:].any()


def test_tiles_equal_those_of_the_vision_service() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        width, height = (int(v) for v in rng.integers(20, 500, 2))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        grid = plan_image(width, height, TilingOptions(1, tiles.MAX_TILES, True, tiles.TILE))
        served = normalise(cut_tiles(image, grid, tiles.TILE))
        ours = tiles.patches(tiles.tile_image(image))
        n = len(ours)
        back = ours.reshape(n, 8, 8, 3, 14, 14).transpose(0, 3, 1, 4, 2, 5).reshape(n, 3, 112, 112)
        np.testing.assert_allclose(back, served, atol=1e-6)


def test_system_text_is_a_handful_of_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(SYSTEM_TEXT)) == 3
    assert tokenizer.decode(list(tokenizer.encode(SYSTEM_TEXT))) == SYSTEM_TEXT


def test_capitals_and_digits_stay_single(tokenizer: Tokenizer) -> None:
    for text in (CHARACTERS, "the word STAR", "the number 4071"):
        ids = tokenizer.encode(text)
        assert sum(1 for i in ids if len(tokenizer.decode([i])) == 1) == sum(c in CHARACTERS for c in text)


@pytest.mark.parametrize(
    "text", ["What colour is the circle?", "a b  c", "naïve 你好 🙂", "<|end|> <image>", "tab\tnewline\nx"]
)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(list(ids)) == text
    assert max(ids) < tokenizer.size - len(ADDED_TOKENS)


def test_newline_is_the_byte_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("\n") == (13,)


def test_config_is_one_the_services_read(tokenizer: Tokenizer) -> None:
    config = parse_model_config(model_config(Shape(vocabulary=tokenizer.size), tokenizer))
    assert config.llm.vocab_size == tokenizer.size
    assert config.tokens_per_tile == 16
    assert config.llm.rope_scaling is not None
    assert config.llm.rope_scaling.type == "su"
    assert (
        len(config.llm.rope_scaling.short_factor)
        == len(config.llm.rope_scaling.long_factor)
        == config.llm.head_dim // 2
    )
    assert (config.llm.max_position_embeddings, config.llm.original_max_position_embeddings) == (131072, 4096)


def test_role_tokens_strip_to_their_right(tokenizer: Tokenizer) -> None:
    import json

    decoder = json.loads(tokenizer_files(tokenizer.size)["tokenizer_config.json"])["added_tokens_decoder"]
    strips = {entry["content"] for entry in decoder.values() if entry["rstrip"]}
    assert strips == {"</s>", *(t for t in ADDED_TOKENS if t.startswith("<|"))} - {"<|endoftext|>"}


def test_video_gives_its_pictures_back_in_order() -> None:
    scene, _ = draw_case("video_motion", 0)
    case = make_case("video_motion", 0)
    frames = decode_video(case.media[0].data, case.media[0].frames)
    assert len(frames) == len(scene.pictures)
    for frame, picture in zip(frames, scene.pictures, strict=True):
        difference = np.abs(np.asarray(frame, np.int16) - np.asarray(picture.image, np.int16))
        assert difference.mean() < 6


def test_frame_indices_follow_the_reference_formula() -> None:
    assert frame_indices(64, 8).tolist() == [int(63 / 16 + np.round(63 / 8 * i)) for i in range(8)]


def test_images_are_png_files() -> None:
    for media in make_case("which_image", 0).media:
        assert Image.open(io.BytesIO(media.data)).format == "PNG"
