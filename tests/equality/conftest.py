"""The nano model in both ways of computing, loaded once."""

from __future__ import annotations

import pytest

from tests.equality.nano_engine import Nano


@pytest.fixture(scope="session")
def invariant() -> Nano:
    return Nano(invariant=True)


@pytest.fixture(scope="session")
def fast() -> Nano:
    return Nano(invariant=False)
