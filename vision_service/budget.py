"""One budget of tiles over many pictures and films: who gets how many."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def split_budget(budget: int, ladders: Sequence[Sequence[int]]) -> list[int]:
    """Choose how many tiles each item is made of, so that all together are at most `budget`.

    Whoever has fewest tiles takes the next step up its ladder, the earlier item first where two have as many;
    an item whose next step does not fit any more keeps what it has. So nobody gets more tiles while another
    who has fewer could still grow, and the same question always has the same answer.

    Args:
        budget: tiles in all; at least the sum of the lowest steps.
        ladders: of each item the numbers of tiles that it can be made of, rising.

    Returns:
        Of each item the chosen place on its ladder.
    """
    chosen = [0] * len(ladders)
    left = budget - sum(ladder[0] for ladder in ladders)
    growing = [(ladder[0], item) for item, ladder in enumerate(ladders)]
    heapq.heapify(growing)
    while growing:
        tiles, item = heapq.heappop(growing)
        ladder, above = ladders[item], chosen[item] + 1
        if above < len(ladder) and ladder[above] - tiles <= left:
            chosen[item] = above
            left -= ladder[above] - tiles
            heapq.heappush(growing, (ladder[above], item))
    return chosen
