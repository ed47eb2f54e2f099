"""Comparing on a noisy machine: the sides take turns, and what counts is the median over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from tqdm import tqdm

Side = TypeVar("Side", bound=Hashable)


class Rounds(dict[Side, list[float]]):
    """What each side gave in each round."""

    def median(self, side: Side) -> float:
        """The median of one side."""
        return statistics.median(self[side])

    def ratio(self, side: Side, base: Side) -> float:
        """The median over the rounds of `side` over `base`, each of the same round."""
        return statistics.median(one / other for one, other in zip(self[side], self[base], strict=True))


def alternate(name: str, rounds: int, sides: Mapping[Side, Callable[[], float]]) -> Rounds[Side]:
    """Run all sides `rounds` times in turn, every other round backwards, so that none is always the first."""
    results: Rounds[Side] = Rounds({side: [] for side in sides})
    with tqdm(total=rounds * len(sides), desc=name, unit="run", leave=False) as progress:
        for number in range(rounds):
            for side in list(sides)[:: -1 if number % 2 else 1]:
                results[side].append(sides[side]())
                progress.update()
    return results
