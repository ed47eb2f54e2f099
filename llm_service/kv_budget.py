"""How much memory the key-value cache may take: an amount, or a share of the device's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from internvl.errors import ConfigError

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_AMOUNT = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)}|%)")


@dataclass(frozen=True, slots=True)
class KvBudget:
    """An amount in bytes, or a share of the device's memory between 0 and 1; one of them is None."""

    amount: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `4GiB`, `512MiB` or `50%`.

        Raises:
            ConfigError: another form, nothing, or more than 100 %.
        """
        match = _AMOUNT.fullmatch(text.strip())
        number = float(match[1]) if match else 0.0
        if match is None or not number or (match[2] == "%" and number > 100):
            raise ConfigError(f"--kv-budget: expected such as 4GiB, 512MiB or 50%, got {text!r}")
        if match[2] == "%":
            return cls(share=number / 100)
        return cls(amount=int(number * _UNITS[match[2]]))

    def bytes_of(self, device_memory: int) -> int:
        """The budget in bytes on a device with so much memory."""
        return int(device_memory * self.share) if self.share is not None else self.amount or 0
