"""API keys: who a bearer of one is, and how much it may ask for. Only hashes of keys are kept."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.access.watched_file import WatchedFile
from gateway.caller import Caller
from internvl.errors import ConfigError

# What may stand in a file name, a log line and a key of a store.
NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")

# What the language tier takes, and its negative.
MOST_PRIORITY = 10

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "tenant", "sha256", "requests_per_minute", "concurrency", "max_priority"}
_ENVIRONMENT = "env:"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much one key may ask for; None for any amount.

    Attributes:
        requests_per_minute: calls that may begin within a minute, in a burst at most.
        concurrency: calls under way at the same time, and likewise turns, which may outlive their calls.
        max_priority: greatest priority of its turns.
    """

    requests_per_minute: int | None = None
    concurrency: int | None = None
    max_priority: int | None = None

    def or_else(self, default: Allowance) -> Allowance:
        """This, with the default's bound where it has none."""
        return Allowance(
            self.requests_per_minute or default.requests_per_minute,
            self.concurrency or default.concurrency,
            default.max_priority if self.max_priority is None else self.max_priority,
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, as its file describes it.

    Attributes:
        caller: who shows it.
        sha256: of the key, in hexadecimal digits.
        allowance: how much it may ask for.
    """

    caller: Caller
    sha256: str
    allowance: Allowance


class ApiKeys:
    """The keys of a file, read again when it changes.

    The file is TOML, a table for each key:

        [[keys]]
        name = "ci"
        tenant = "team-a"
        sha256 = "..."              # printf %s "$KEY" | sha256sum
        requests_per_minute = 600   # default: any number
        concurrency = 16            # default: any number
        max_priority = 0            # default: any
    """

    def __init__(self, where: str) -> None:
        """Read the keys.

        Args:
            where: path of the file, or `env:NAME` for its text in an environment variable.

        Raises:
            ConfigError: it cannot be read, or something in it cannot be used; names it.
        """
        if where.startswith(_ENVIRONMENT):
            keys = _parse(_environment(where.removeprefix(_ENVIRONMENT)))
            self._keys: Callable[[], tuple[ApiKey, ...]] = lambda: keys
        else:
            self._keys = WatchedFile(Path(where), lambda file: _parse(_text(file)))

    def find(self, key: str) -> ApiKey | None:
        """The key with this text; None if there is none. Takes as long for every text."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for candidate in self._keys():
            if hmac.compare_digest(candidate.sha256, digest):
                found = candidate
        return found

    def allowance(self, caller: Caller) -> Allowance | None:
        """How much a key may ask for; None if there is no such key."""
        return next((key.allowance for key in self._keys() if key.caller == caller), None)


def _environment(name: str) -> str:
    text = os.environ.get(name)
    if text is None:
        raise ConfigError(f"--api-keys: {name} is not in the environment")
    return text


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-keys: cannot read {file} ({type(error).__name__})") from None


def _parse(text: str) -> tuple[ApiKey, ...]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--api-keys: not TOML: {error}") from None
    tables = document.get("keys")
    if not isinstance(tables, list) or not tables or set(document) != {"keys"}:
        raise ConfigError("--api-keys: must hold [[keys]] tables, and nothing else")
    keys = tuple(_key(table, f"--api-keys: keys[{number}]") for number, table in enumerate(tables))
    for what, values in (
        ("name", [key.caller.key_name for key in keys]),
        ("sha256", [key.sha256 for key in keys]),
    ):
        if len(set(values)) < len(values):
            raise ConfigError(f"--api-keys: two keys have the same {what}")
    return keys


def _key(table: Mapping[str, Any], field: str) -> ApiKey:
    if not isinstance(table, dict):
        raise ConfigError(f"{field}: must be a table")
    if unknown := set(table) - _FIELDS:
        raise ConfigError(f"{field}: unknown field {min(unknown)}")
    for name in ("name", "tenant"):
        if not isinstance(table.get(name), str) or not NAME.fullmatch(table[name]):
            raise ConfigError(f"{field}.{name}: must be 1 to 64 of the characters A-Z a-z 0-9 _ . @ -")
    if not isinstance(table.get("sha256"), str) or not _SHA256.fullmatch(table["sha256"]):
        raise ConfigError(f"{field}.sha256: must be 64 hexadecimal digits in lower case")
    for name in ("requests_per_minute", "concurrency"):
        value = table.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{field}.{name}: must be a whole number of at least 1")
    greatest = table.get("max_priority", 0)
    if not isinstance(greatest, int) or isinstance(greatest, bool) or abs(greatest) > MOST_PRIORITY:
        raise ConfigError(f"{field}.max_priority: must be {-MOST_PRIORITY} to {MOST_PRIORITY}")
    return ApiKey(
        Caller(table["tenant"], table["name"]),
        table["sha256"],
        Allowance(table.get("requests_per_minute"), table.get("concurrency"), table.get("max_priority")),
    )
