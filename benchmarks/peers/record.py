"""All that was measured, written to a file after every piece, so that a race can go on where it stopped."""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.failures import NotRunError
from benchmarks.peers.orders import Arrivals
from internvl.atomic_file import atomic_write


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contestant gave for one piece in one round."""

    piece: str
    contestant: str
    arrivals: Arrivals


@dataclass(slots=True)
class Facts:
    """What is known of a contestant beside its samples.

    Attributes:
        ready_s: of each start.
        peak_bytes: the most of all runs; 0 if unknown.
        not_run: why something was not run: by piece, or by an empty name where nothing could be.
    """

    version: str = ""
    ready_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    not_run: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must be equal for measurements to be compared.

    Attributes:
        layers: of the model's decoder.
        threads: of each engine.
        model: name of the checkpoint; empty for random weights.
        processor: see `processor`.
    """

    layers: int
    threads: int
    model: str
    processor: str


def processor() -> str:
    """This machine's processor as Linux describes it; elsewhere its kind alone."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.machine()
    found = re.findall(r"^(model name|cpu family|model)\s*:\s*(.*)$", text, re.MULTILINE)
    return ", ".join(f"{name} {value}" for name, value in sorted(set(found))) or platform.machine()


class Record:
    """Samples and facts of a race."""

    def __init__(self, conditions: Conditions, file: Path | None = None) -> None:
        """Begin, or go on with what the file holds.

        Raises:
            NotRunError: the file is of a race under other conditions.
        """
        self.conditions = conditions
        self.samples: list[Sample] = []
        self.facts: dict[str, Facts] = {}
        self.bandwidth: list[float] = []
        self._file = file
        if file is not None and file.exists():
            self._read(json.loads(file.read_text(encoding="utf-8")))

    def of(self, contestant: str) -> Facts:
        """The facts of a contestant."""
        return self.facts.setdefault(contestant, Facts())

    def add(self, sample: Sample) -> None:
        """Keep a sample."""
        self.samples.append(sample)
        self.of(sample.contestant).not_run.pop(sample.piece, None)
        self.save()

    def done(self, contestant: str) -> dict[str, int]:
        """How often each piece was run."""
        return Counter(sample.piece for sample in self.samples if sample.contestant == contestant)

    def arrivals(self, piece: str, contestant: str) -> list[Arrivals]:
        """What a contestant gave for a piece, a list for each round."""
        return [
            each.arrivals for each in self.samples if (each.piece, each.contestant) == (piece, contestant)
        ]

    def save(self) -> None:
        """Write everything to the file, if there is one."""
        if self._file is None:
            return
        content = {
            "conditions": asdict(self.conditions),
            "bandwidth_gb_s": self.bandwidth,
            "facts": {name: asdict(facts) for name, facts in self.facts.items()},
            "samples": [asdict(sample) for sample in self.samples],
        }
        with atomic_write(self._file) as file:
            file.write(f"{json.dumps(content)}\n".encode())

    def _read(self, content: dict[str, Any]) -> None:
        ours, theirs = asdict(self.conditions), content["conditions"]
        for name, value in ours.items():
            if theirs[name] != value:
                raise NotRunError(
                    f"--record: its {name} is {theirs[name]!r}, and that of this race {value!r}"
                )
        self.bandwidth = content["bandwidth_gb_s"]
        self.facts = {name: Facts(**facts) for name, facts in content["facts"].items()}
        self.samples = [Sample(**sample) for sample in content["samples"]]
