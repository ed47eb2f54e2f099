"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# No service that a test starts leaves weights in the user's cache folder.
for tier in ("LLM", "VISION"):
    os.environ.setdefault(f"INTERNVL_{tier}_WEIGHT_CACHE", "off")

# How long an example takes is the machine's affair, and no property of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
