"""Every test here knows the client of `client.py`, and each way to handle a message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.delivery.adapter import registered
from tests.unit.delivery.ways import PLAIN, WAYS, Way


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way in turn."""
    chosen: Way = request.param
    return chosen


@pytest.fixture(params=PLAIN, ids=lambda way: way.name)
def plain_way(request: pytest.FixtureRequest) -> Way:
    """Each way in which settling is not awaited, in turn."""
    chosen: Way = request.param
    return chosen
