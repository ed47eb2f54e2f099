"""The files that ship with a model and what it should say about them: `demo/demo.json` beside its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl.errors import ConfigError

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
"""The embedded model, which ships such files."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and the true answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One conversation about some files.

    Attributes:
        name: what people call it.
        files: shown with the first question.
        turns: what is asked, in order.
        frames: frames to sample if the files are films; 0 for pictures.
    """

    name: str
    files: tuple[Path, ...]
    turns: tuple[Turn, ...]
    frames: int


def read_scenes(folder: Path) -> tuple[Scene, ...]:
    """Read `demo.json` of a folder.

    Raises:
        ConfigError: it is not there, or not of this form, or a file is missing.
    """
    try:
        raw = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        scenes = tuple(_read_scene(folder, item) for item in raw)
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no demo.json; this model ships no demonstration") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / 'demo.json'} cannot be read ({error!r})") from None
    missing = [path.name for scene in scenes for path in scene.files if not path.is_file()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}")
    return scenes


def _read_scene(folder: Path, item: dict[str, Any]) -> Scene:
    return Scene(
        name=str(item["name"]),
        files=tuple(folder / str(name) for name in item["files"]),
        turns=tuple(Turn(str(turn["question"]), str(turn["answer"])) for turn in item["turns"]),
        frames=int(item.get("frames", 0)),
    )
