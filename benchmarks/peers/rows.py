"""From the record to the rows of the report: the comparisons first, then everything that was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from benchmarks.peers.checkpoints import LAYERS, config_of
from benchmarks.peers.contestants import ONE_PROCESS, OURS
from benchmarks.peers.goals import (
    BANDWIDTH_GOAL,
    EXTRA_GIB_GOAL,
    GOALS,
    MEASURES,
    SPLIT_GOAL,
    Goal,
)
from benchmarks.peers.pieces import KV_BUDGET_GIB, Measure, first_s, median_of, token_ms
from benchmarks.peers.record import Record
from benchmarks.report import Row
from internvl.checkpoint import expected_tensors
from internvl.model_config import parse_model_config

_GIB = 2**30

_NO_BANDWIDTH = "not run: no C compiler, or no memory to read"


def rows_of(record: Record, goals: tuple[Goal, ...] = GOALS) -> list[Row]:
    """All rows; what was not run has the value NaN, and says why."""
    rows = [
        *(_compared(record, goal) for goal in goals),
        _bandwidth_share(record),
        _split_cost(record),
        _extra_memory(record),
        *_measured(record),
    ]
    return [_labelled(row, record.conditions.layers) for row in rows]


def _compared(record: Record, goal: Goal) -> Row:
    ours = _value(record, f"{OURS} {goal.ours}", goal.piece, goal.measure)
    if ours is None:
        return _missing(record, goal.metric, goal.unit, f"{OURS} {goal.ours}", goal.piece, goal.text)
    rivals = {
        name: value
        for name in _all_of(record, goal.rival)
        if (value := _value(record, name, goal.piece, goal.measure))
    }
    if not rivals:
        why = _why(record, goal.rival, goal.piece)
        return Row(goal.metric, ours, goal.unit, f"{goal.peer} not run: {why}; {goal.text}")
    best = (max if goal.more_is_better else min)(rivals, key=rivals.__getitem__)
    ratio = ours / rivals[best]
    verdict = _verdict(goal.text, goal.reached(ratio))
    return Row(goal.metric, ours, goal.unit, f"{best}: {rivals[best]:.4g} {goal.unit}; {verdict}", ratio)


def _bandwidth_share(record: Record) -> Row:
    """What one token of bf16 has to read, over what could be read meanwhile."""
    metric, unit, goal = "decode_b1_bf16_bandwidth", "share", f"goal >= {BANDWIDTH_GOAL}"
    token = _value(record, f"{OURS} bf16", "text", token_ms)
    if token is None:
        return _missing(record, metric, unit, f"{OURS} bf16", "text", goal)
    best = _best_bandwidth(record)
    if math.isnan(best):
        return Row(metric, math.nan, unit, f"{_NO_BANDWIDTH}; {goal}")
    share = _bytes_per_token(record.conditions.layers) / 1e9 / (token / 1e3) / best
    verdict = _verdict(goal, share >= BANDWIDTH_GOAL)
    against = f"{best:.1f} GB/s read by all threads, the best of this run; {verdict}"
    return Row(metric, share, unit, against, share)


def _best_bandwidth(record: Record) -> float:
    """In GB/s; NaN if it was never measured."""
    return max((speed for speed in record.bandwidth if not math.isnan(speed)), default=math.nan)


def _bytes_per_token(layers: int) -> int:
    """All weights of the decoder in bfloat16 but the table of tokens; keys and values are not counted."""
    specs = expected_tensors(parse_model_config(config_of(layers))).values()
    read = (spec for spec in specs if spec.name.startswith("language_model."))
    return sum(2 * spec.parameters for spec in read if not spec.name.endswith("embed_tokens.weight"))


def _split_cost(record: Record) -> Row:
    split = _value(record, f"{OURS} int8", "image", first_s)
    whole = _value(record, f"{ONE_PROCESS} int8", "image", first_s)
    goal = f"goal <= {SPLIT_GOAL}"
    if split is None or whole is None:
        return _missing(record, "split_cost", "s", f"{ONE_PROCESS} int8", "image", goal)
    ratio = split / whole
    against = f"{whole:.4g} s in one process; cold image, int8; {_verdict(goal, ratio <= SPLIT_GOAL)}"
    return Row("split_cost", split, "s", against, ratio)


def _extra_memory(record: Record) -> Row:
    facts = record.facts.get(f"{OURS} bf16")
    goal = f"goal <= {EXTRA_GIB_GOAL}"
    if facts is None or not facts.peak_bytes:
        return _missing(record, "rss_extra_gib", "GiB", f"{OURS} bf16", "", goal)
    specs = expected_tensors(parse_model_config(config_of(record.conditions.layers))).values()
    weights = sum(2 * spec.parameters for spec in specs) / _GIB
    extra = facts.peak_bytes / _GIB - weights - KV_BUDGET_GIB
    verdict = _verdict(goal, extra <= EXTRA_GIB_GOAL)
    against = f"peak of all three less {weights:.2f} of weights and {KV_BUDGET_GIB} of cache; {verdict}"
    return Row("rss_extra_gib", extra, "GiB", against, extra / EXTRA_GIB_GOAL)


def _measured(record: Record) -> Iterator[Row]:
    for name, facts in record.facts.items():
        metric = name.replace(" ", "_").replace("=", "_").replace("-", "_")
        for measured, piece, measure, unit in MEASURES:
            value = _value(record, name, piece, measure)
            if value is not None:
                rounds = len(record.arrivals(piece, name))
                yield Row(f"{metric}_{measured}", value, unit, f"{facts.version}; rounds: {rounds}")
        if facts.ready_s:
            yield Row(f"{metric}_ready", statistics.median(facts.ready_s), "s", facts.version)
        if facts.peak_bytes:
            yield Row(f"{metric}_peak", facts.peak_bytes / _GIB, "GiB", facts.version)
        for piece, why in facts.not_run.items():
            yield Row(f"{metric}_{piece or 'start'}", math.nan, "", f"not run: {why}")
    if record.bandwidth:
        best = _best_bandwidth(record)
        how = _NO_BANDWIDTH if math.isnan(best) else "pages of 2 MiB, all threads, the best"
        yield Row("read_bandwidth", best, "GB/s", how)


def _value(record: Record, contestant: str, piece: str, measure: Measure) -> float | None:
    samples = record.arrivals(piece, contestant)
    try:
        return median_of(measure, samples) if samples else None
    except IndexError:  # an engine that answers the first of the three requests alone
        return None


def _missing(record: Record, metric: str, unit: str, contestant: str, piece: str, goal: str) -> Row:
    return Row(metric, math.nan, unit, f"not run: {_why(record, contestant, piece)}; {goal}")


def _why(record: Record, prefix: str, piece: str) -> str:
    """Why a contestant, or the first whose name begins like this, gave nothing."""
    for name in _all_of(record, prefix):
        if not_run := record.facts[name].not_run:
            return not_run.get("") or not_run.get(piece) or "not asked for"
    return "not asked for"


def _all_of(record: Record, prefix: str) -> list[str]:
    """The contestants whose names begin with these words."""
    return [name for name in record.facts if f"{name} ".startswith(f"{prefix} ")]


def _verdict(goal: str, reached: bool) -> str:
    return goal if reached else f"{goal}, missed"


def _labelled(row: Row, layers: int) -> Row:
    if layers == LAYERS:
        return row
    label = f"{layers} of {LAYERS} layers: says little"
    against = f"{row.against}; {label}" if row.against else label
    return Row(row.metric, row.value, row.unit, against, row.ratio)
