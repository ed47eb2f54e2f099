"""Scenes to arrays: the pictures and the prompt head once, then one branch of tokens per dialogue.

Branches of a row see the shared prefix and themselves, never one another, and count positions from the end
of the prefix, so a row of four dialogues teaches the same as four separate prompts at about a third of the
cost.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from models.recipe.geometry import GRID, MAX_TILES, VISUAL_TOKENS
from models.recipe.scene_parts import Dialogue, Scene
from models.recipe.tiles import patches, tile_image, tile_labels
from models.recipe.tokens import Tokenizer

MASKED = -1e9


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one step; B rows of S tokens, N tiles, A answer tokens.

    `gather` [B, S] indexes the embedding table followed by all visual tokens. `mask` [B, 1, S, S] is added
    to scores. `answers` are flat positions (row * S + column) whose next token is `targets`; `owner`
    numbers their dialogue. `visual_rows` are flat positions of visual tokens in tile order, `image_number`
    their picture's number (from 0).
    """

    patches: NDArray[np.float32]
    labels: NDArray[np.int64]
    gather: NDArray[np.int64]
    positions: NDArray[np.int64]
    mask: NDArray[np.float32]
    answers: NDArray[np.int64]
    targets: NDArray[np.int64]
    owner: NDArray[np.int64]
    skills: tuple[str, ...]
    visual_rows: NDArray[np.int64]
    image_number: NDArray[np.int64]


@dataclass(slots=True)
class _Row:
    ids: list[int]
    positions: list[int]
    branch: list[int]
    answers: list[tuple[int, int, int]]
    image_number: list[int]


def prefix_ids(tokenizer: Tokenizer, kind: str, tiles: list[int]) -> list[int]:
    """Ids of everything before the first question: head, labels and one slot per visual token."""
    ids = tokenizer.head()
    names = {"image": "", "images": "Image-{}: ", "video": "Frame{}: ", "text": ""}
    for number, count in enumerate(tiles, 1):
        label = names[kind].format(number)
        ids += tokenizer.encode(("\n" if number > 1 else "") + label)
        ids += tokenizer.visual(count * VISUAL_TOKENS)
    return [*ids, *tokenizer.encode("\n")] if tiles else ids


def _append_dialogue(
    row: _Row, tokenizer: Tokenizer, dialogue: Dialogue, branch: int, start: int, owner: int
) -> None:
    position = start
    for number, (question, answer) in enumerate(dialogue.turns):
        asked = (
            tokenizer.question(question)
            if number == 0
            else tokenizer.next_user() + tokenizer.question(question)
        )
        replied = tokenizer.answer(answer)
        for k, token in enumerate(replied):
            row.answers.append((len(row.ids) + len(asked) - 1 + k, token, owner))
        added = asked + replied
        row.ids += added
        row.positions += range(position, position + len(added))
        row.branch += [branch] * len(added)
        position += len(added)


def build_batch(tokenizer: Tokenizer, items: list[tuple[Scene, list[Dialogue]]], with_labels: bool) -> Batch:
    """Pack scenes and the dialogues chosen for them; `with_labels` adds the dense labels."""
    rows: list[_Row] = []
    views: list[Image] = []
    labels: list[NDArray[np.int64]] = []
    skills: list[str] = []
    for scene, dialogues in items:
        counts = []
        image_number: list[int] = []
        for number, picture in enumerate(scene.pictures):
            limit = 1 if scene.kind == "video" else MAX_TILES
            tiles = tile_image(picture.image, limit)
            counts.append(len(tiles))
            views += tiles
            image_number += [number] * (len(tiles) * VISUAL_TOKENS)
            if with_labels:
                labels.append(tile_labels(picture, limit))
        ids = prefix_ids(tokenizer, scene.kind, counts)
        start = len(ids)
        row = _Row(ids, list(range(start)), [0] * start, [], image_number)
        for branch, dialogue in enumerate(dialogues, 1):
            _append_dialogue(row, tokenizer, dialogue, branch, start, len(skills))
            skills.append(dialogue.skill)
        rows.append(row)
    return _pack(tokenizer, rows, views, labels, tuple(skills))


def _pack(
    tokenizer: Tokenizer,
    rows: list[_Row],
    views: list[Image],
    labels: list[NDArray[np.int64]],
    skills: tuple[str, ...],
) -> Batch:
    length = max(len(row.ids) for row in rows)
    shape = (len(rows), length)
    gather, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    branch = np.full(shape, -1, np.int64)
    answers, targets, owner = [], [], []
    for r, row in enumerate(rows):
        n = len(row.ids)
        gather[r, :n], positions[r, :n], branch[r, :n] = row.ids, row.positions, row.branch
        for column, token, dialogue in row.answers:
            answers.append(r * length + column)
            targets.append(token)
            owner.append(dialogue)
    visual_rows = np.flatnonzero(gather.reshape(-1) == tokenizer.image_context)
    gather.reshape(-1)[visual_rows] = tokenizer.size + np.arange(visual_rows.size)
    own = branch[:, :, None]
    other = branch[:, None, :]
    causal = np.tril(np.ones((length, length), bool))
    seen = causal & ((other == 0) | (own == other)) & (other >= 0)
    seen |= np.eye(length, dtype=bool)
    mask = np.where(seen, np.float32(0), np.float32(MASKED))[:, None]
    return Batch(
        patches=patches(views) if views else np.zeros((0, GRID * GRID, 588), np.float32),
        labels=np.concatenate(labels) if labels else np.zeros((0, GRID * GRID, 4), np.int64),
        gather=gather,
        positions=positions,
        mask=mask,
        answers=np.array(answers, np.int64),
        targets=np.array(targets, np.int64),
        owner=np.array(owner, np.int64),
        skills=skills,
        visual_rows=visual_rows,
        image_number=np.array([n for row in rows for n in row.image_number], np.int64),
    )
