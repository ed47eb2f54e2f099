"""All that was measured, written to a file after every piece, so that a race can go on where it stopped."""

from __future__ import annotations

import json
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


class Record:
    """Samples and facts of a race over one model.

    Attributes:
        layers: of that model's decoder.
    """

    def __init__(self, layers: int, file: Path | None = None) -> None:
        """Begin, or go on with what the file holds.

        Raises:
            NotRunError: the file is of a race over another model.
        """
        self.layers = layers
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
            "layers": self.layers,
            "bandwidth_gb_s": self.bandwidth,
            "facts": {name: asdict(facts) for name, facts in self.facts.items()},
            "samples": [asdict(sample) for sample in self.samples],
        }
        with atomic_write(self._file) as file:
            file.write(f"{json.dumps(content)}\n".encode())

    def _read(self, content: dict[str, Any]) -> None:
        if content["layers"] != self.layers:
            raise NotRunError(
                f"--record: it is of {content['layers']} layers, and this race of {self.layers}"
            )
        self.bandwidth = content["bandwidth_gb_s"]
        self.facts = {name: Facts(**facts) for name, facts in content["facts"].items()}
        self.samples = [Sample(**sample) for sample in content["samples"]]
