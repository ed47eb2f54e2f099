"""What the race makes of arrival times: measures, ratios, the best setting of a peer, and honest gaps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.peers.orders import Arrivals, TextOrder
from benchmarks.peers.pieces import decode_rate, first_s, second_s, serve_rate, token_ms
from benchmarks.peers.record import Conditions, Record, Sample
from benchmarks.peers.rows import rows_of
from benchmarks.report import Row, report


def steady(first: float, gap: float, tokens: int = 64) -> Arrivals:
    return [[first + gap * number for number in range(tokens)]]


def record_of(*samples: tuple[str, str, Arrivals], layers: int = 32) -> Record:
    record = Record(Conditions(layers, threads=2, model="", processor="made up"))
    for piece, contestant, arrivals in samples:
        record.add(Sample(piece, contestant, arrivals))
    return record


def row(record: Record, metric: str) -> Row:
    return next(each for each in rows_of(record) if each.metric == metric)


def test_measures_of_one_stream() -> None:
    assert first_s(steady(2.0, 0.25)) == 2.0
    assert token_ms(steady(2.0, 0.25)) == pytest.approx(250)
    assert second_s([[3.0], [0.5], [0.25]]) == 0.5


def test_decoding_counts_only_while_all_streams_are_written() -> None:
    early, late = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0, 6.0]
    assert decode_rate([early, late]) == pytest.approx(4 / 2)  # two tokens of each, in two seconds
    assert math.isnan(decode_rate([[0.0, 1.0], [2.0, 3.0]]))


def test_serving_counts_everything() -> None:
    assert serve_rate([[1.0, 2.0], [3.0, 4.0]]) == pytest.approx(4 / 4)


def test_a_ratio_is_of_medians() -> None:
    mine = [("text", "ours int8", steady(1, gap)) for gap in (0.07, 0.9, 0.05)]
    theirs = [("text", "llama q8_0 fa=off", steady(1, gap)) for gap in (0.1, 0.2, 0.01)]
    found = row(record_of(*mine, *theirs), "decode_b1_int8")
    assert found.value == pytest.approx(70)
    assert found.ratio == pytest.approx(0.7)
    assert "goal <= 0.7x" in found.against


def test_the_best_setting_of_a_peer_counts() -> None:
    record = record_of(
        ("text", "ours w4", steady(1, 0.09)),
        ("text", "llama q4_k_m fa=on", steady(1, 0.18)),
        ("text", "llama q4_k_m fa=off", steady(1, 0.10)),
        ("text", "llama q8_0 fa=off", steady(1, 0.01)),  # another format is another comparison
    )
    found = row(record, "decode_b1_int4")
    assert found.ratio == pytest.approx(0.9)
    assert found.against == "llama q4_k_m fa=off: 100 ms/token; goal <= 0.85x, missed"


def test_of_rates_more_is_better() -> None:
    eight = [steady(1, 0.5)[0]] * 8
    faster = [steady(1, 0.25)[0]] * 8
    record = record_of(
        ("streams_8", "ours int8", faster),
        ("streams_8", "vllm fp32", eight),
        ("streams_8", "vllm bf16", eight),
    )
    found = row(record, "decode_b8_int8")
    assert (found.value, found.ratio) == (pytest.approx(32), pytest.approx(2))
    assert "missed" not in found.against


def test_a_peer_that_was_not_run_is_told_with_the_reason() -> None:
    record = record_of(("text", "ours bf16", steady(1, 0.3)))
    record.of("vllm bf16").not_run[""] = "Illegal instruction"
    found = row(record, "decode_b1_bf16")
    assert found.ratio is None
    assert found.value == pytest.approx(300)
    assert "vllm not run: Illegal instruction" in found.against


def test_what_of_ours_was_not_run_has_no_value() -> None:
    found = row(record_of(("text", "vllm bf16", steady(1, 0.3))), "decode_b1_bf16")
    assert math.isnan(found.value)
    assert found.against.startswith("not run: not asked for")


def test_the_share_of_the_bandwidth() -> None:
    record = record_of(("text", "ours bf16", steady(1, 0.2)))
    record.bandwidth = [30.0, 46.5, math.nan]
    found = row(record, "decode_b1_bf16_bandwidth")
    # 3.722 B parameters without the table of tokens, of two bytes, in 0.2 s: 37.2 GB/s.
    assert found.value == pytest.approx(37.2 / 46.5, rel=0.01)


def test_a_bandwidth_that_could_not_be_measured_is_no_bandwidth() -> None:
    record = record_of(("text", "ours bf16", steady(1, 0.2)))
    record.bandwidth = [math.nan, 30.0]
    assert row(record, "read_bandwidth").value == 30.0
    record.bandwidth = [math.nan]
    for metric in ("read_bandwidth", "decode_b1_bf16_bandwidth"):
        found = row(record, metric)
        assert math.isnan(found.value)
        assert found.against.startswith("not run: no C compiler")


def test_the_split_is_compared_with_one_process() -> None:
    record = record_of(
        ("image", "ours int8", [[10.5], [1.0], [1.0]]), ("image", "one-process int8", [[10.0]])
    )
    assert row(record, "split_cost").ratio == pytest.approx(1.05)
    assert math.isnan(row(record, "image_newq").value) is False


def test_memory_beyond_weights_and_cache() -> None:
    record = record_of(("text", "ours bf16", steady(1, 0.2)))
    record.of("ours bf16").peak_bytes = int((7.72 + 2 + 1.2) * 2**30)
    assert row(record, "rss_extra_gib").value == pytest.approx(1.2, abs=0.01)


def test_fewer_layers_are_labelled() -> None:
    record = record_of(("text", "ours int8", steady(1, 0.1)), layers=2)
    assert all(each.against.endswith("2 of 32 layers: says little") for each in rows_of(record))


def test_what_was_not_run_is_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    report([Row("metric", math.nan, "s", "not run: no compiler")], file)
    assert json.loads(file.read_text())[0]["value"] is None
    assert "-" in capsys.readouterr().out.splitlines()[1].split()


def test_prompts_depend_on_the_seed_alone() -> None:
    order = TextOrder(streams=2, prompt_tokens=16, answer_tokens=4, seed=7)
    one, other = order.prompts()
    assert len(one) == 16
    assert one != other
    assert [one, other] == order.prompts()
    assert TextOrder(2, 16, 4, seed=8).prompts()[0] != one
