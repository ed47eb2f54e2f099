"""How much the engine may take on at once."""

from __future__ import annotations

from dataclasses import dataclass

from internvl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of one engine, all resolved.

    Attributes:
        context_limit: most tokens of prompt and answer together.
        kv_budget_tokens: tokens whose keys and values fit the cache, over all running requests.
        max_running: requests that hold a running place at once.
        queue_limit: requests that may wait for one.
        step_token_budget: most tokens computed in one step.
        tile_timeout_s: seconds a request may stand still for a tile.
    """

    context_limit: int
    kv_budget_tokens: int
    max_running: int = 16
    queue_limit: int = 64
    step_token_budget: int = 256
    tile_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        """Raises ConfigError where prefill could starve beside a full set of decodes."""
        if self.step_token_budget <= self.max_running:
            raise ConfigError(
                f"--step-token-budget: must be above --max-running ({self.max_running}), so that prefill "
                f"advances beside as many decodes; got {self.step_token_budget}"
            )
