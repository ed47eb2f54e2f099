"""Typed look-ups in parsed JSON that name the full key in every complaint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from internvl.errors import ConfigError

T = TypeVar("T")


class ConfigKeys:
    """One JSON object of a config file; `prefix` is the path to it, for example `llm_config.`."""

    def __init__(self, raw: Mapping[str, Any], prefix: str = "") -> None:
        self._raw = raw
        self._prefix = prefix

    def get(self, key: str, kind: type[T]) -> T:
        """The value of a key that must be there; null counts as absent."""
        value = self.optional(key, kind)
        if value is None:
            raise self.wrong(key, "missing from config.json")
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value of a key, or None. Whole numbers pass as floats, true and false never as numbers."""
        value = self._raw.get(key)
        if value is None:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return kind(value)  # type: ignore[call-arg]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, f"expected {kind.__name__}, found {type(value).__name__}")
        return value

    def count(self, key: str) -> int:
        """A whole number of at least 1."""
        value = self.get(key, int)
        if value < 1:
            raise self.wrong(key, f"must be at least 1, found {value}")
        return value

    def positive(self, key: str) -> float:
        """A finite number above 0."""
        value = self.get(key, float)
        if not (math.isfinite(value) and value > 0):
            raise self.wrong(key, f"must be a positive number, found {value}")
        return value

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.get(key, str)
        if value not in allowed:
            raise self.wrong(key, f"{value!r} is not one of {', '.join(allowed)}")
        return value

    def architecture(self, known: tuple[str, ...]) -> str:
        """The first class name under `architectures`."""
        found = self.get("architectures", list)
        if not found or found[0] not in known:
            raise self.wrong(
                "architectures", f"unknown architecture {found[:1] or 'none'}; known: {', '.join(known)}"
            )
        return str(found[0])

    def factors(self, key: str) -> tuple[float, ...]:
        """A list of positive finite numbers."""
        values = self.get(key, list)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise self.wrong(key, f"must hold positive numbers, found {value!r}")
        return tuple(float(value) for value in values)

    def inner(self, key: str) -> ConfigKeys:
        return ConfigKeys(self.get(key, dict), f"{self._prefix}{key}.")

    def wrong(self, key: str, problem: str) -> ConfigError:
        """The error to raise about `key`."""
        return ConfigError(f"{self._prefix}{key}: {problem}")
