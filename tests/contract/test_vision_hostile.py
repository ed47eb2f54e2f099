"""The hostile set against the running program: each file fails alone, tells little and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from internvl.errors import BadMedia, ServingError
from internvl.rpc import error_from_rpc
from internvl.v1 import vision_service_pb2, vision_service_pb2_grpc
from tests.contract.hostile.files import HostileFile
from tests.contract.hostile_files import hostile_files
from tests.contract.vision_samples import Open, Stub, encode, image, requests, video
from tests.unit.media_samples import LEAK, encoded, film, picture

FILES = hostile_files()
PHOTO = encoded(picture(170, 120))
FILM = film(6)
MIB = 2**20
CHUNK_BYTES = 100_000  # other tests send small ones; here it is the files that matter


@dataclass(frozen=True, slots=True)
class Program:
    """A running `python -m vision_service` with two decoders."""

    process: subprocess.Popen[bytes]
    stub: Stub
    log: Path

    def resident_mib(self) -> int:
        """Memory of the service and its decoders."""
        return sum(map(_resident_mib, [self.process.pid, *self.decoders()]))

    def decoders(self) -> list[int]:
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]


def _resident_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // MIB


@pytest.fixture(scope="module")
def program(vision_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("hostile")
    address, log = f"unix:{folder / 's'}", folder / "log"
    flags = {
        "--model": vision_checkpoint,
        "--listen": address,
        "--decoders": 2,
        "--max-media-mib": 4,
        "--max-pixels": 4_000_000,
        "--max-video-frames": 1000,
        "--decode-timeout-seconds": 60,
        "--decode-memory-mib": 256,
    }
    command = [
        sys.executable,
        "-m",
        "vision_service",
        *(str(part) for flag in flags.items() for part in flag),
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=errors)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=120)
            yield Program(process, vision_service_pb2_grpc.VisionServiceStub(channel), log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def send(stub: Stub, file: HostileFile) -> list[ServingError | None]:
    """What `Encode` and `Inspect` say of a file; None if they take it."""
    open_message = video(frames=2) if file.is_film else image()
    chunks = [file.data[at : at + CHUNK_BYTES] for at in range(0, len(file.data), CHUNK_BYTES)]
    calls = (
        lambda: list(stub.Encode(requests(open_message, file.data, CHUNK_BYTES), timeout=120)),
        lambda: stub.Inspect(
            iter(vision_service_pb2.InspectRequest(chunk=chunk) for chunk in chunks), timeout=120
        ),
    )
    answers: list[ServingError | None] = []
    for call in calls:
        try:
            call()
            answers.append(None)
        except grpc.RpcError as error:
            answers.append(error_from_rpc(error, "vision service"))
    return answers


def assert_takes(stub: Stub, open_message: Open, data: bytes, tiles: int) -> None:
    assert len(encode(stub, open_message, data, CHUNK_BYTES).tiles) == tiles


def assert_right(file: HostileFile, answers: list[ServingError | None]) -> None:
    encoding, inspection = answers
    if encoding is None:
        assert "" in file.refusals
    else:
        assert isinstance(encoding, BadMedia), encoding
        assert encoding.field == "chunk"
        assert any(part and part in encoding.message for part in file.refusals), encoding.message
    for error in (encoding, inspection):
        if error is not None:
            assert isinstance(error, BadMedia), error
            assert not LEAK.search(error.message), error.message


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_fails_alone(program: Program, name: str) -> None:
    assert_right(FILES[name], send(program.stub, FILES[name]))
    assert_takes(program.stub, image(), PHOTO, tiles=7)
    assert program.process.poll() is None


def test_the_set_is_as_large_as_promised() -> None:
    assert len(FILES) >= 60
    assert len({file.data for file in FILES.values()}) == len(FILES)


def test_the_whole_set_at_once_leaves_nothing_behind(program: Program) -> None:
    """Good requests among them are answered; then memory is where it was, and the log tells nothing."""

    def good(_: int) -> None:
        assert_takes(program.stub, image(), PHOTO, tiles=7)
        assert_takes(program.stub, video(frames=2), FILM, tiles=2)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(good, range(16)))
        before = program.resident_mib()
        for _ in range(2):
            answers = threads.map(lambda file: (file, send(program.stub, file)), FILES.values())
            list(threads.map(good, range(16)))
            for file, found in answers:
                assert_right(file, found)
        list(threads.map(good, range(16)))
    assert len(program.decoders()) == 2
    assert program.resident_mib() < before + 64
    assert_log_is_harmless(program.log.read_text().splitlines())


def assert_log_is_harmless(lines: list[str]) -> None:
    entries = [json.loads(line) for line in lines]
    # Those of the start name what the operator chose; the others say these things and no more.
    told = [entry for entry in entries if entry["event"] not in ("loaded", "ready")]
    assert {entry["event"] for entry in told} <= {"call refused", "decoder replaced"}
    for entry in told:
        method = entry.pop("method", "")
        assert method in ("", "/internvl.v1.VisionService/Encode", "/internvl.v1.VisionService/Inspect")
        assert not LEAK.search(" ".join(map(str, entry.values()))), entry
