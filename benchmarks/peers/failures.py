"""What keeps a part of the race from being run."""

from __future__ import annotations


class NotRunError(Exception):
    """A peer that cannot be built, a model that cannot be made, an engine that failed; says why."""
