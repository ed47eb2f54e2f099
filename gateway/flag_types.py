"""Types of flags, as argparse takes them: each says what it would have taken."""

from __future__ import annotations

import argparse
import math

LONGEST_S = 10 * 365 * 24 * 3600
"""Longest time that anything can be told to take or to last, in seconds."""


def count(text: str) -> int:
    """A whole number of at least 0."""
    return _whole_number(text, least=0)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole_number(text, least=1)


def seconds(text: str) -> float:
    """A time, which may be none."""
    time_s = _number(text)
    if not 0 <= time_s <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 to {LONGEST_S}")
    return time_s


def some_seconds(text: str) -> float:
    """A time above 0."""
    time_s = _number(text)
    if not 0 < time_s <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, at most {LONGEST_S}")
    return time_s


def ratio(text: str) -> float:
    """A number of at least 0."""
    return _at_least(text, 0.0)


def multiple(text: str) -> float:
    """A number of at least 1."""
    return _at_least(text, 1.0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}")
    return int(text)


def _at_least(text: str, least: float) -> float:
    number = _number(text)
    if not (math.isfinite(number) and number >= least):
        raise argparse.ArgumentTypeError(f"must be a number of at least {least:g}")
    return number


def _number(text: str) -> float:
    """A number; NaN for what is none, which no comparison takes."""
    try:
        return float(text)
    except ValueError:
        return math.nan
