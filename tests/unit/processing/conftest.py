"""Beginning the handling of an in-memory message, as the faces do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hopspan.processing.delivery import Processing
from hopspan.processing.opening import begin
from hopspan.telemetry import Face
from hopspan.testing import Message, memory
from tests.unit.support import Telemetry

Open = Callable[..., Processing]


@pytest.fixture
def opened(telemetry: Telemetry) -> Open:
    """Begin with a message, or several, as if the client had pushed them."""

    def open_(*messages: Message, adapter: Any = memory, **settings: Any) -> Processing:
        face = Face({**telemetry.settings, **settings})
        return begin(adapter, messages or [Message()], pushed=True, face=face)

    return open_
