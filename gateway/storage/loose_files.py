"""Files of turns that nothing is kept of, for when the store that knows all others is down."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from pathlib import Path


class LooseFiles:
    """Local files by the hash of their content, of a few bytes in all; the oldest are deleted first."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        """Keep at most `most_bytes` in `directory`, and always the newest."""
        self._directory = directory
        self._most_bytes = most_bytes
        self._files: OrderedDict[str, tuple[Path, int]] = OrderedDict()
        self._seen_by: set[tuple[str, str]] = set()

    def keep(self, tenant: str, media_id: str, temporary: Path, size: int) -> None:
        """Take over a file that a tenant has brought."""
        path = self._directory / f"loose-{secrets.token_hex(8)}"
        temporary.replace(path)
        previous = self._files.pop(media_id, None)
        if previous is not None:
            previous[0].unlink(missing_ok=True)
        self._files[media_id] = (path, size)
        self._seen_by.add((tenant, media_id))
        while len(self._files) > 1 and sum(size for _, size in self._files.values()) > self._most_bytes:
            self.delete(next(iter(self._files)))

    def visible(self, tenant: str, media_id: str) -> bool:
        """Whether a tenant has brought a file that is here."""
        return (tenant, media_id) in self._seen_by

    def find(self, media_id: str) -> Path | None:
        """Where a file is; None if it is not here."""
        found = self._files.get(media_id)
        return None if found is None else found[0]

    def delete(self, media_id: str) -> None:
        """Delete a file; nothing happens if it is not here."""
        path, _ = self._files.pop(media_id, (None, 0))
        self._seen_by = {seen for seen in self._seen_by if seen[1] != media_id}
        if path is not None:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all."""
        for media_id in list(self._files):
            self.delete(media_id)
