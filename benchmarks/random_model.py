"""Checkpoints of random weights, at sizes that are worth keeping."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internvl.atomic_file import PARTIAL
from internvl.checkpoint import progress_bar, write_random_checkpoint


def random_checkpoint(folder: Path, raw_config: Mapping[str, Any]) -> Path:
    """`folder` with a checkpoint of this config.json in it; the first call writes it, for minutes at most."""
    if not (folder / "config.json").exists():
        partial = folder.with_name(folder.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        with progress_bar("drawing the checkpoint") as progress:
            write_random_checkpoint(partial, raw_config, progress=progress)
        partial.rename(folder)
    return folder
