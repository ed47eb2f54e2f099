"""The measuring stick of the parity tests: one fixture that asserts, and a table of what it saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from parity_error import relative_error

# Stated limit on max|ours - oracle| / max|oracle|, float32 arithmetic on both sides.
LIMIT = 2e-4

_WORST = pytest.StashKey[dict[str, tuple[float, int]]]()


@pytest.fixture
def assert_parity(request: pytest.FixtureRequest) -> Callable[[str, np.ndarray, np.ndarray], None]:
    """`assert_parity(stage, ours, oracle)`: within LIMIT, and recorded for the table after the run."""

    def check(stage: str, ours: np.ndarray, oracle: np.ndarray) -> None:
        error = relative_error(ours, oracle)
        worst = request.config.stash.setdefault(_WORST, {})
        seen, count = worst.get(stage, (0.0, 0))
        worst[stage] = (max(seen, error), count + 1)
        assert error <= LIMIT, f"{stage}: relative error {error:.2e} exceeds {LIMIT:.0e}"

    return check


@pytest.fixture
def assert_breaks_parity() -> Callable[[np.ndarray, np.ndarray], None]:
    """The opposite, far from the limit: what shows that a parity test can fail."""

    def check(ours: np.ndarray, oracle: np.ndarray) -> None:
        assert relative_error(ours, oracle) > 10 * LIMIT

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    worst = config.stash.get(_WORST, {})
    if not worst:
        return
    terminalreporter.section(f"parity: largest relative error, limit {LIMIT:.0e}")
    for stage, (error, count) in sorted(worst.items()):
        terminalreporter.write_line(f"{error:.1e}  {stage} ({count} comparisons)")
