"""How much prefill a step may carry beside decodes, learned from how long steps take."""

from __future__ import annotations

from llm_service.engine.limits import EngineLimits
from llm_service.engine.step import Step

_SMOOTHING = 0.2
_CREDIBLE_S = 1e-6
"""No step is faster; a clock that says so stands still."""
_FASTEST, _SLOWEST = 0.5, 2.0
"""One step, however odd, moves an estimate only as if it had taken this many times what was expected."""


class PrefillBudget:
    """Bounds prefill so that a step beside decodes takes at most `decode_stretch` times one without prefill.

    The model of a step's time is `decode(rows) + prefill tokens * cost`. Both parts are running estimates:
    decode learns from steps without prefill only, and what a mixed step took beyond the expected is put down
    to its prefill. Shared out, it would raise the estimate of decode, and with it the prefill allowed.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self._stretch = limits.decode_stretch
        self._block = limits.kv_block_size
        self._most = limits.step_token_budget
        self._cost: float | None = None  # seconds for each prefill token
        self._decode: dict[int, float] = {}  # seconds, by the number of bits in the number of rows

    def tokens(self, rows: int) -> int:
        """Most prefill tokens beside `rows` decode rows: at least a block of them, or it would starve."""
        if not rows or self._cost is None:
            return self._most
        decode = self._expected_decode(rows)
        if decode is None:
            return self._block
        whole_blocks = (self._stretch - 1) * decode / self._cost // self._block * self._block
        return int(min(max(whole_blocks, self._block), self._most))

    def observe(self, step: Step, seconds: float) -> None:
        """Learn from a step. A share of one token counts as a decode row, and so does each draft."""
        rows = sum(1 + len(share.drafts) for share in step.shares if share.tokens == 1)
        prefill = sum(share.tokens for share in step.shares if share.tokens > 1)
        if seconds < _CREDIBLE_S or not rows + prefill:
            return
        decode = self._expected_decode(rows) if rows else 0.0
        cost = self._cost if prefill else 0.0
        if decode is None or cost is None:
            self._begin(rows, prefill, seconds, decode, cost)
            return
        expected = decode + prefill * cost
        error = min(max(seconds / expected, _FASTEST), _SLOWEST) - 1
        if not prefill:
            self._decode[rows.bit_length()] = decode * (1 + _SMOOTHING * error)
        else:
            self._cost = cost * (1 + _SMOOTHING * error)

    def _begin(
        self, rows: int, prefill: int, seconds: float, decode: float | None, cost: float | None
    ) -> None:
        """Set what is not known yet: from what the known part leaves, or as if all tokens cost the same."""
        even = seconds / (rows + prefill)
        if decode is None:
            rest = seconds - prefill * (even if cost is None else cost)
            self._decode[rows.bit_length()] = max(rest, rows * even)
        if cost is None:
            self._cost = max((seconds - decode) / prefill, even) if decode is not None else even

    def _expected_decode(self, rows: int) -> float | None:
        """The estimate of the nearest number of rows, in powers of two; the smaller one of two as near."""
        bits = rows.bit_length()
        if bits in self._decode:
            return self._decode[bits]
        nearest = min(self._decode, key=lambda known: (abs(known - bits), known), default=None)
        return None if nearest is None else self._decode[nearest]
