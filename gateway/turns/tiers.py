"""What every turn works with."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.storage.media_store import MediaStore
from gateway.tiers.layouts import LayoutMemory
from gateway.tiers.llm_backend import LlmBackend
from gateway.tiers.retries import RetryBudget
from gateway.tiers.vision_backend import VisionBackend

AT_ONCE = 8
"""Pictures and films of one turn that are at the vision tier at a time: others need places there, too."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a turn works with.

    Attributes:
        vision: the vision tier.
        llm: the language tier.
        media: bytes of all media.
        layouts: layouts of media that was encoded before.
        retries: what may be tried again.
    """

    vision: VisionBackend
    llm: LlmBackend
    media: MediaStore
    layouts: LayoutMemory
    retries: RetryBudget
