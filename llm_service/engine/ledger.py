"""Who may hold how much of the key-value cache."""

from __future__ import annotations


class KvLedger:
    """An account of cache room, in tokens. Nothing runs without a booking, so the cache cannot overflow.

    Today a request books the most it can ever hold, because its cache is one piece of memory.
    """

    def __init__(self, budget: int) -> None:
        """Open an account of `budget` tokens."""
        self.budget = budget
        self._booked: dict[object, int] = {}
        self._total = 0

    @property
    def booked(self) -> int:
        """Tokens booked by all holders."""
        return self._total

    def fits(self, tokens: int) -> bool:
        """Whether `tokens` more can be booked now."""
        return self._total + tokens <= self.budget

    def book(self, holder: object, tokens: int) -> None:
        """Book room for a holder that has none. Ask `fits` first.

        Raises:
            ValueError: over the budget, or the holder has a booking.
        """
        if holder in self._booked or not self.fits(tokens):
            raise ValueError(f"cannot book {tokens} of {self.budget - self._total} free tokens")
        self._booked[holder] = tokens
        self._total += tokens

    def release(self, holder: object) -> None:
        """Give a holder's room back; nothing if it has none."""
        self._total -= self._booked.pop(holder, 0)
