"""Files that are whole or not there, whoever fails, dies or writes at the same time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from internvl.atomic_file import atomic_write, delete_abandoned


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def fail(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"ne")
        file.flush()
        raise ValueError("no more")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        assert not (tmp_path / "file").exists()
    assert contents(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("before", [{}, {"file": b"old"}])
def test_a_writer_that_fails_changes_nothing(tmp_path: Path, before: dict[str, bytes]) -> None:
    for name, content in before.items():
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match="no more"):
        fail(tmp_path / "file")
    assert contents(tmp_path) == before


def test_of_several_writers_one_writes(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write(b"first")
        with pytest.raises(BlockingIOError, match="another process is writing it: 'file'"):
            write(tmp_path / "file", b"second")
    assert contents(tmp_path) == {"file": b"first"}


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(b"begun by somebody else")
    write(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write(tmp_path / "file", b"new")
    (tmp_path / "other.partial").write_bytes(b"perhaps somebody's")
    delete_abandoned(tmp_path)
    assert contents(tmp_path) == {"file": b"new", "other.partial": b"perhaps somebody's"}


def test_permissions_are_as_asked_for(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file", mode=0o600):
        pass
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_only_what_nobody_writes_is_abandoned(tmp_path: Path) -> None:
    (tmp_path / "dead.partial").write_bytes(b"begun")
    (tmp_path / "file").write_bytes(b"old")
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
        delete_abandoned(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"file", "file.partial"}
    assert contents(tmp_path) == {"file": b"new"}
