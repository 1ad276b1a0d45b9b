"""Every test here knows the client of `client.py`, and leaves the context as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.context import attach, get_current

from tests.unit.delivery.adapter import registered
from tests.unit.delivery.ways import PLAIN, WAYS, Way


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    before = get_current()
    with registered():
        yield
    is_left = get_current() is not before
    if is_left:
        attach(before)  # or the tests to come would fail as well
    assert not is_left, "the test left another context current than it found"


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
