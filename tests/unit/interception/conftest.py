"""Interceptors applied to one method of the small client."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest

from hopspan.telemetry import Binding
from hopspan.testing.memory import ADAPTER
from tests.unit.interception.client import Channel
from tests.unit.support import Telemetry

Intercept = Callable[..., tuple[Channel, Binding]]


@pytest.fixture
def intercept(telemetry: Telemetry) -> Intercept:
    """A channel with one of its methods intercepted, and what the interceptor acts for."""

    def make(method: str, interceptor: Any, **settings: Any) -> tuple[Channel, Binding]:
        channel = Channel()
        binding = Binding(ADAPTER, telemetry.instrumenter(**settings))
        replacement = interceptor(getattr(Channel, method), binding)
        channel.__dict__[method] = MethodType(replacement, channel)
        return channel, binding

    return make
