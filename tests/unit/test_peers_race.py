"""A race of stub programs: turns, refusals, and going on where it stopped. No peer is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers.contestants import Contestant, Start
from benchmarks.peers.engine_process import running
from benchmarks.peers.failures import NotRunError
from benchmarks.peers.orders import PictureOrder, TextOrder
from benchmarks.peers.race import RaceConfig, run_race, turn_order
from benchmarks.peers.record import Conditions, Record

STUB = str(Path(__file__).with_name("peers_stub.py"))
FAST, SLOW, BROKEN, VIEWER = (
    Contestant("ours", "int8"),
    Contestant("llama", "q8_0", "fa=on"),
    Contestant("vllm", "bf16"),
    Contestant("one-process", "int8"),
)
FLAGS = {FAST: ("--beat", "0.1"), SLOW: ("--beat", "0.2"), BROKEN: ("--broken",), VIEWER: ("--viewer",)}


def start(contestant: Contestant) -> Start:
    return Start((sys.executable, STUB, "--model", "none", *FLAGS[contestant]), {})


def config(folder: Path, rounds: int = 1, parts: tuple[str, ...] = ("decode",)) -> RaceConfig:
    return RaceConfig(folder / "logs", rounds, parts, threads=1, timeout_s=60)


def conditions(layers: int = 32, threads: int = 2) -> Conditions:
    return Conditions(layers, threads, model="", processor="made up")


def test_every_other_round_goes_backwards() -> None:
    assert turn_order([FAST, SLOW, BROKEN], 0) == [FAST, SLOW, BROKEN]
    assert turn_order([FAST, SLOW, BROKEN], 1) == [BROKEN, SLOW, FAST]


def test_everybody_does_the_same_work_in_every_round(tmp_path: Path) -> None:
    record = Record(conditions())
    run_race(config(tmp_path, rounds=2), [FAST, SLOW], record, start)
    assert [each.contestant for each in record.samples] == [FAST.name, SLOW.name, SLOW.name, FAST.name]
    assert {len(each.arrivals[0]) for each in record.samples} == {64}
    assert record.facts[FAST.name].version == "metronome 1"
    assert record.facts[FAST.name].peak_bytes > 2**20
    assert len(record.facts[SLOW.name].ready_s) == 2


def test_a_peer_that_cannot_start_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    record = Record(conditions())
    run_race(config(tmp_path), [BROKEN, FAST], record, start)
    assert "this engine never starts" in record.facts[BROKEN.name].not_run[""]
    assert [each.contestant for each in record.samples] == [FAST.name]


def test_a_peer_that_cannot_be_built_is_told(tmp_path: Path) -> None:
    def no_compiler(contestant: Contestant) -> Start:
        raise NotRunError("not built: no C compiler")

    record = Record(conditions())
    run_race(config(tmp_path), [SLOW], record, no_compiler)
    assert record.facts[SLOW.name].not_run == {"": "not built: no C compiler"}


def test_a_piece_that_fails_leaves_the_other_pieces(tmp_path: Path) -> None:
    record = Record(conditions())
    run_race(config(tmp_path, parts=("image", "decode")), [FAST], record, start)
    assert [each.piece for each in record.samples] == ["text"]
    assert "takes no picture orders" in record.facts[FAST.name].not_run["image"]


def test_pictures_are_raced_like_texts(tmp_path: Path) -> None:
    record = Record(conditions())
    run_race(config(tmp_path, parts=("image",)), [VIEWER], record, start)
    assert record.facts[VIEWER.name].not_run == {}
    assert [len(each.arrivals) for each in record.samples] == [3]


def test_a_record_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "race.json"
    run_race(config(tmp_path), [FAST], Record(conditions(), file), start)
    again = Record(conditions(), file)
    assert again.done(FAST.name) == {"text": 1}
    run_race(config(tmp_path), [FAST, SLOW], again, start)
    assert [each.contestant for each in again.samples] == [FAST.name, SLOW.name]


def test_a_record_of_other_conditions_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "race.json"
    Record(conditions(layers=2), file).save()
    with pytest.raises(NotRunError, match=r"its layers is 2, and that of this race 32"):
        Record(conditions(), file)
    with pytest.raises(NotRunError, match=r"its threads is 2, and that of this race 1"):
        Record(conditions(layers=2, threads=1), file)


def test_an_engine_is_asked_and_ends_with_the_block(tmp_path: Path) -> None:
    with running(start(SLOW), tmp_path / "slow.log", 60) as engine:
        arrivals = engine.run(TextOrder(streams=2, prompt_tokens=4, answer_tokens=3))
    assert arrivals == [[1.0, 1.2, 1.4], [1.0, 1.2, 1.4]]
    assert "engines print what they like" in (tmp_path / "slow.log").read_text()
    with pytest.raises(NotRunError, match="it ended"):
        engine.run(TextOrder(streams=1, prompt_tokens=1, answer_tokens=1))


def test_an_order_that_an_engine_cannot_do_is_refused_and_the_next_is_done(tmp_path: Path) -> None:
    text, picture = (
        TextOrder(streams=1, prompt_tokens=4, answer_tokens=2),
        PictureOrder(side=8, answer_tokens=1),
    )
    with running(start(FAST), tmp_path / "log", 60) as engine:
        with pytest.raises(NotRunError, match="NotImplementedError: this engine takes no picture orders"):
            engine.run(picture)
        assert len(engine.run(text)) == 1
    with running(start(VIEWER), tmp_path / "log", 60) as engine:
        with pytest.raises(NotRunError, match="NotImplementedError: this engine takes no text orders"):
            engine.run(text)
        assert len(engine.run(picture)) == 3


def test_an_engine_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    silent = Start((sys.executable, "-c", "import sys; sys.stdin.read()"), {})
    with pytest.raises(NotRunError, match="no answer within"), running(silent, tmp_path / "log", 0.1):
        pass
