"""Flags and variables of the vision service."""

from __future__ import annotations

from pathlib import Path

import pytest

from internvl.errors import ConfigError
from vision_service.config import parse_config
from vision_service.limits import MediaLimits, RequestLimits


def test_defaults_are_those_of_the_dataclasses() -> None:
    config = parse_config(["--model", "folder"])
    assert config.model.folder == Path("folder")
    assert config.model.device == "cpu"
    assert config.media == MediaLimits()
    assert config.requests == RequestLimits()
    assert config.server.listen == "127.0.0.1:50051"


def test_flags_and_variables_reach_their_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNVL_VISION_MAX_MEDIA_MIB", "3")
    monkeypatch.setenv("INTERNVL_VISION_BATCH_TILES", "9")
    config = parse_config(["--model", "folder", "--batch-tiles", "7", "--max-aspect-ratio", "12.5"])
    assert config.requests.max_media_bytes == 3 * 2**20
    assert config.encoder.batch_tiles == 7
    assert config.media.max_aspect_ratio == 12.5


@pytest.mark.parametrize(
    "flag", ["--max-tiles", "--decoders", "--decode-memory-mib", "--threads", "--upload-timeout-seconds"]
)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_numbers_must_be_positive(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: must be above 0, got {value}"):
        parse_config(["--model", "folder", f"{flag}={value}"])


def test_a_grace_of_zero_is_allowed() -> None:
    assert parse_config(["--model", "folder", "--grace-seconds", "0"]).server.grace_s == 0
