"""How much the engine may take on at once."""

from __future__ import annotations

from dataclasses import dataclass

from internvl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of one engine, all resolved.

    Attributes:
        context_limit: most tokens of prompt and answer together.
        kv_blocks: blocks of the key-value cache, over all running requests.
        kv_block_size: tokens in a block.
        prefix_cache: whether keys and values of earlier requests are reused.
        max_running: answers that hold a running place at once.
        queue_limit: requests that may wait for one.
        step_token_budget: most tokens computed in one step.
        tile_timeout_s: seconds a request may stand still for a tile.
        aging_s: seconds of waiting that are worth one level of priority.
        decode_stretch: longest step with prefill beside decodes, as a multiple of one that only decodes.
        draft_tokens: most tokens guessed ahead for one answer in one step; 0 is no speculation.
    """

    context_limit: int
    kv_blocks: int
    kv_block_size: int = 8
    prefix_cache: bool = True
    max_running: int = 32
    queue_limit: int = 64
    step_token_budget: int = 256
    tile_timeout_s: float = 120.0
    aging_s: float = 10.0
    decode_stretch: float = 2.5
    draft_tokens: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError where nothing could run, or prefill could starve beside many decodes."""
        if self.step_token_budget <= self.max_running:
            raise ConfigError(
                f"--step-token-budget: must be above --max-running ({self.max_running}), so that prefill "
                f"advances beside as many decodes; got {self.step_token_budget}"
            )
        if self.kv_blocks < 1 or self.kv_block_size < 1:
            raise ConfigError(
                f"--kv-block-size: the cache must have room for a block; got {self.kv_blocks} blocks "
                f"of {self.kv_block_size} tokens"
            )
        if self.aging_s <= 0:
            raise ConfigError(f"--aging-seconds: must be above 0, got {self.aging_s:g}")
        if self.decode_stretch <= 1:
            raise ConfigError(f"--decode-stretch: must be above 1, got {self.decode_stretch:g}")

    @property
    def kv_budget_tokens(self) -> int:
        """Tokens whose keys and values fit the cache."""
        return self.kv_blocks * self.kv_block_size

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return blocks_for(tokens, self.kv_block_size)


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks of a size that hold so many tokens."""
    return -(-tokens // block_size)
