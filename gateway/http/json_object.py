"""One object of a request's JSON, taken apart member by member."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from gateway.http.errors import UnknownField, UnsupportedField
from internvl.errors import InvalidField

UINT32_MAX = 2**32 - 1

_PRINTABLE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class JsonObject:
    """Members are taken by name and type; `done` refuses what nobody took. A null is as good as absent.

    What is taken is no longer held here, so that a picture is let go as soon as it is stored.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise InvalidField(path or "body", "must be an object")
        self._members: dict[str, Any] = value
        self.path = path

    def name_of(self, member: str) -> str:
        """Path of a member within the request."""
        return f"{self.path}.{member}" if self.path else member

    def take(self, member: str) -> Any:
        """Any value; None where there is none."""
        return self._members.pop(member, None)

    def text(self, member: str) -> str | None:
        """A text."""
        value = self.take(member)
        if value is not None and not isinstance(value, str):
            raise InvalidField(self.name_of(member), "must be a string")
        return value

    def required_text(self, member: str) -> str:
        """A text that must be there."""
        value = self.text(member)
        if value is None:
            raise InvalidField(self.name_of(member), "is required")
        return value

    def flag(self, member: str) -> bool | None:
        """True or false."""
        value = self.take(member)
        if value is not None and not isinstance(value, bool):
            raise InvalidField(self.name_of(member), "must be true or false")
        return value

    def integer(self, member: str, least: int = 0, most: int = UINT32_MAX) -> int | None:
        """A whole number within bounds."""
        value = self.take(member)
        return None if value is None else whole_number(value, self.name_of(member), least, most)

    def number(self, member: str) -> float | None:
        """A number."""
        value = self.take(member)
        return None if value is None else real_number(value, self.name_of(member))

    def one_of(self, member: str, allowed: Collection[str]) -> str | None:
        """One of a few words."""
        value = self.text(member)
        if value is not None and value not in allowed:
            raise InvalidField(self.name_of(member), f"must be one of {', '.join(allowed)}")
        return value

    def items(self, member: str, most: int) -> list[Any] | None:
        """A list."""
        value = self.take(member)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InvalidField(self.name_of(member), "must be an array")
        if len(value) > most:
            raise InvalidField(
                self.name_of(member),
                f"at most {most} items, got {len(value)}",
                metadata={"limit": most, "got": len(value)},
            )
        return value

    def object(self, member: str) -> JsonObject | None:
        """An object."""
        value = self.take(member)
        return None if value is None else JsonObject(value, self.name_of(member))

    def rest(self) -> dict[str, Any]:
        """All that nobody took, as it is."""
        return self._members

    def ignore(self, *members: str) -> None:
        """Pass over members that change nothing here."""
        for member in members:
            self._members.pop(member, None)

    def refuse(self, members: Mapping[str, str]) -> None:
        """Refuse members by name, each for its reason; empty ones ask for nothing and pass."""
        for member, why in members.items():
            if self.take(member) not in (None, False, [], {}, ""):
                raise UnsupportedField(self.name_of(member), why)

    def done(self) -> None:
        """Refuse the first member that nobody took."""
        for member, value in self._members.items():
            if value is not None:
                # Only a name that looks like one is shown: an error never repeats what a user wrote.
                shown = member if _PRINTABLE_NAME.fullmatch(member) else "?"
                raise UnknownField(self.name_of(shown), "is not a field of this request")


def whole_number(value: object, field: str, least: int, most: int) -> int:
    """A whole number within bounds; 2.0 counts as 2."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidField(field, f"must be a whole number from {least} to {most}")
    return value


def real_number(value: object, field: str) -> float:
    """A number that a 32-bit float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 3e38:
        raise InvalidField(field, "must be a number")
    return float(value)
