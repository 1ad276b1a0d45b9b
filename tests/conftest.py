"""Every test begins and ends without anything of hopspan's that outlives a call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hopspan
from hopspan import faults
from hopspan.telemetry import forget_defaults
from tests.patience import pytest_collection_modifyitems  # noqa: F401 - a hook


@pytest.fixture(autouse=True)
def nothing_is_left_of_hopspan() -> Iterator[None]:
    """Whatever a test instruments, logs once or reads from the environment is for itself alone."""
    yield
    hopspan.uninstrument()
    faults.forget()
    forget_defaults()
