"""The subcommands that installed packages offer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from internvl.cli import Command
from internvl.errors import ConfigError

GROUP = "internvl.commands"

# Which extra brings what a subcommand imports. A plain install is the client.
_EXTRAS = {"chat": "client", "checkpoint": "checkpoint", "fetch": "fetch", "replay": "all", "up": "all"}


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A subcommand that is declared but does not import here."""

    name: str
    reason: str

    @property
    def remedy(self) -> str:
        extra = _EXTRAS.get(self.name, "all")
        return f"needs the extra `{extra}`: pip install 'internvl-serve[{extra}]' ({self.reason})"


class Registry:
    """Finds subcommands by name, and imports only those that are asked for."""

    def __init__(self, entries: Iterable[EntryPoint] | None = None) -> None:
        found = entry_points(group=GROUP) if entries is None else entries
        self._entries = {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}

    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def load(self, name: str) -> Command:
        """Import one subcommand.

        Raises:
            ConfigError: it needs something that is not installed.
        """
        loaded = _load(self._entries[name])
        if isinstance(loaded, Unavailable):
            raise ConfigError(f"internvl {name} {loaded.remedy}")
        return loaded

    def load_all(self) -> Iterator[Command | Unavailable]:
        """Import every subcommand, in the order of their names."""
        for entry in self._entries.values():
            yield _load(entry)


def _load(entry: EntryPoint) -> Command | Unavailable:
    try:
        command: Command = entry.load()
    except ImportError as error:
        return Unavailable(entry.name, str(error))
    return command
