"""Which replica takes a request: the same one for the same key, and never too many for one."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tiers.routing import choose, preference

NAMES = st.lists(st.text("abc0123456789.:", min_size=1, max_size=12), min_size=1, max_size=12, unique=True)
LOADS = st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(0, 200), min_size=1, max_size=12)
BOUNDS = st.floats(1.0, 4.0, allow_nan=False)


@given(st.binary(), NAMES)
def test_a_key_has_one_order_whatever_the_order_of_the_replicas(key: bytes, names: list[str]) -> None:
    order = preference(key, names)
    assert order == preference(key, reversed(names))
    assert sorted(order) == sorted(names)


@given(st.binary(), NAMES, st.data())
def test_a_replica_that_leaves_moves_only_its_own_keys(
    key: bytes, names: list[str], data: st.DataObject
) -> None:
    leaver = data.draw(st.sampled_from(names))
    order = preference(key, names)
    assert preference(key, [name for name in names if name != leaver]) == [
        name for name in order if name != leaver
    ]


@given(st.binary(), LOADS, BOUNDS)
def test_the_bound_holds_and_the_first_with_room_is_taken(
    key: bytes, loads: dict[str, int], bound: float
) -> None:
    chosen = _choose(key, loads, bound)
    most = math.ceil(bound * (sum(loads.values()) + 1) / len(loads))
    assert loads[chosen] + 1 <= most
    passed_over = preference(key, loads)[: preference(key, loads).index(chosen)]
    assert all(loads[name] + 1 > most for name in passed_over)


@given(st.binary(), LOADS, BOUNDS)
def test_the_choice_is_the_same_every_time(key: bytes, loads: dict[str, int], bound: float) -> None:
    assert _choose(key, loads, bound) == _choose(key, dict(reversed(loads.items())), bound)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=60), st.integers(1, 8), BOUNDS)
def test_no_replica_is_swamped_even_by_one_hot_key(keys: list[bytes], count: int, bound: float) -> None:
    loads = {f"replica {number}": 0 for number in range(count)}
    for key in [*keys, *[b"hot"] * 40]:
        loads[_choose(key, loads, bound)] += 1
    assert max(loads.values()) <= math.ceil(bound * sum(loads.values()) / count)


def test_keys_spread_evenly_and_a_newcomer_takes_its_share_of_each() -> None:
    keys = [str(number).encode() for number in range(8000)]
    four = [f"10.0.0.{number}:50052" for number in range(4)]
    before = {key: preference(key, four)[0] for key in keys}
    counts = [list(before.values()).count(name) for name in four]
    assert all(1800 < count < 2200 for count in counts)
    after = {key: preference(key, [*four, "10.0.0.4:50052"])[0] for key in keys}
    moved = [key for key in keys if after[key] != before[key]]
    assert {after[key] for key in moved} == {"10.0.0.4:50052"}
    assert 1400 < len(moved) < 1800


def _choose(key: bytes, loads: dict[str, int], bound: float) -> str:
    return choose({name: loads[name] for name in preference(key, loads)}, bound)
