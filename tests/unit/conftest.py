"""Every unit test begins without settings, and must end with the context in which it began."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from opentelemetry.context import get_current
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from hopspan import faults
from hopspan.telemetry import forget_defaults
from tests.unit.support import Telemetry


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith(("HOPSPAN_", "OTEL_")):
            monkeypatch.delenv(name)
    faults.forget()
    forget_defaults()
    before = get_current()
    yield
    forget_defaults()
    assert get_current() == before, "the test left another context current than it found"


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def unsampled() -> Telemetry:
    return Telemetry(ALWAYS_OFF)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that anyone logs, from INFO on: asyncio tells its selector below that."""
    caplog.set_level(logging.INFO)
    return caplog
