"""Building the operators into the user's cache folder, once for each Paddle and state of the sources."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from internvl.user_cache import user_cache

_HERE = Path(__file__).parent
_COMPILE = _HERE / "compile.py"
_SOURCES = sorted((_HERE / "source").glob("*"))

# A build takes about a minute of processor time; on a busy machine it gets only a part of one processor.
_TIMEOUT_S = 900


class BuildError(Exception):
    """The operators could not be compiled; the message says why in one line."""


def library_path() -> Path:
    """Where the library for this Paddle and these sources lies, built or not."""
    return user_cache("native") / f"{_fingerprint()}.so"


def build() -> Path:
    """Compile the operators unless they are there; of several processes one does, the others wait.

    Raises:
        BuildError: no compiler, a cache folder that cannot be written, or sources it does not take.
    """
    path = library_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _compile(path)
    except OSError as error:
        raise BuildError(f"cannot write the cache folder or start the compiler ({error.strerror})") from error
    return path


def _compile(path: Path) -> None:
    """Build in a folder beside `path` and move the result there: whoever looks finds all of it or nothing."""
    sources = [str(source) for source in _SOURCES if source.suffix == ".cc"]
    if not sources:
        raise BuildError("this installation came without their sources")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # -I: neither the working folder nor PYTHONPATH can stand in for a module of the builder.
        command = [sys.executable, "-I", str(_COMPILE), folder, *sources]
        environment = os.environ | {"PYTHONWARNINGS": "ignore"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"the compiler took longer than {_TIMEOUT_S} s") from None
        built = list(Path(folder).glob("*.so"))
        if done.returncode or not built:
            raise BuildError(_reason(done.stdout + done.stderr))
        built[0].replace(path)


def _reason(output: bytes) -> str:
    """The line of a compiler's or Paddle's output that names the fault."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["the builder said nothing"])[0][:200]


def _fingerprint() -> str:
    """Changes with the sources, the flags, Paddle (whose folder is linked to) and the kind of processor."""
    spec = importlib.util.find_spec("paddle")
    parts = [importlib.metadata.version("paddlepaddle"), str(spec and spec.origin), platform.machine()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for file in (*_SOURCES, _COMPILE):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:32]
