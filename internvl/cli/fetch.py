"""`internvl fetch OWNER/NAME`."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Protocol

from internvl.checkpoint import progress_bar
from internvl.checkpoint.inspection import inspect_checkpoint
from internvl.cli import Command
from internvl.errors import CheckpointError, ConfigError
from internvl.fetch.downloader import download_all
from internvl.fetch.huggingface import HuggingFace
from internvl.fetch.paddle_bucket import PaddleBucket
from internvl.fetch.remote_file import RemoteFile

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Source(Protocol):
    """Where checkpoints are published."""

    host: str

    def files(self, repository: str, revision: str | None) -> list[RemoteFile]:
        """The files of one checkpoint."""


_SOURCES: dict[str, type[HuggingFace] | type[PaddleBucket]] = {
    "huggingface": HuggingFace,
    "paddle": PaddleBucket,
}


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("repository", metavar="OWNER/NAME", help="for example OpenGVLab/InternVL2-4B")
    parser.add_argument(
        "--source", choices=list(_SOURCES), default="huggingface", help="default: huggingface"
    )
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: a folder NAME where you are")
    parser.add_argument("--revision", help="branch, tag or commit; Hugging Face only; default: main")


def run(arguments: Namespace) -> int:
    repository: str = arguments.repository
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"OWNER/NAME: {repository!r} is not of that form; try OpenGVLab/InternVL2-4B")
    source: Source = _SOURCES[arguments.source]()
    folder: Path = arguments.into or Path(repository.split("/")[1])
    files = source.files(repository, arguments.revision)
    print(f"{source.host}: {repository}, {len(files)} files, {sum(file.size for file in files):,} bytes")
    with progress_bar("fetching") as progress:
        download_all(files, folder, progress)
    _validate(folder, files)
    return 0


command = Command("fetch", "Download a released checkpoint and check it.", configure, run)


def _validate(folder: Path, files: list[RemoteFile]) -> None:
    hashed = sum(1 for file in files if file.sha256 or file.git_sha1)
    print(
        f"{folder}: sizes of {len(files)} files are right, and hashes of the {hashed} that have one published"
    )
    report = inspect_checkpoint(folder)
    if report.problems:
        raise CheckpointError("; ".join(report.problems))
    total = report.total
    print(f"{folder}: {report.layout} layout, {total.tensors} tensors, {total.parameters:,} parameters")
