"""What the gateway remembers of media that was encoded before."""

from __future__ import annotations

from collections import OrderedDict

from gateway import metrics
from gateway.content import Layout, Media
from internvl.errors import Unavailable


class StaleLayout(Unavailable):
    """The vision tier gives another `visual_id` than it did before: its model was replaced."""

    def __init__(self) -> None:
        super().__init__("the vision service changed its model during the turn; ask again")


class LayoutMemory:
    """Layouts by media, the least recently used forgotten first.

    A layout is good for as long as the vision tier keeps its weights and preprocessing. The memory does not
    ask on every turn: a `visual_id` holds the encoder's fingerprint, and `Turn` compares it whenever it
    fetches tiles. A layout that is stale while no tile is needed still names the embeddings that the language
    tier has.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._layouts: OrderedDict[Media, Layout] = OrderedDict()

    def get(self, media: Media) -> Layout | None:
        """The layout, if it is known."""
        layout = self._layouts.get(media)
        metrics.LAYOUT_LOOKUPS.labels("no" if layout is None else "yes").inc()
        if layout is not None:
            self._layouts.move_to_end(media)
        return layout

    def put(self, media: Media, layout: Layout) -> None:
        """Remember a layout."""
        self._layouts[media] = layout
        self._layouts.move_to_end(media)
        if len(self._layouts) > self._capacity:
            self._layouts.popitem(last=False)

    def forget(self, media: Media) -> None:
        """Forget a layout that turned out to be stale."""
        self._layouts.pop(media, None)
