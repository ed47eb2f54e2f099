"""The shape every benchmark reports in: a table for people, a list of rows for programs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number.

    Attributes:
        metric: its name, stable between releases.
        value: the number; NaN where it was not run, and `against` says why.
        unit: what it counts.
        against: what it is compared with; empty when it stands alone.
        ratio: value over the value of `against`; None when it stands alone.
    """

    metric: str
    value: float
    unit: str
    against: str = ""
    ratio: float | None = None


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flag that every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as JSON, too")


def report(rows: Sequence[Row], json_file: Path | None) -> None:
    """Print the rows as a table and, if asked, write them as JSON."""
    cells = [("metric", "value", "unit", "against", "ratio"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if json_file:
        json_file.write_text(json.dumps([_fields(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def _fields(row: Row) -> dict[str, object]:
    """JSON has no NaN."""
    return asdict(row) | ({"value": None} if math.isnan(row.value) else {})


def _cells(row: Row) -> tuple[str, ...]:
    value = "-" if math.isnan(row.value) else f"{row.value:.4g}"
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    return row.metric, value, row.unit, row.against, ratio
