"""Instrumentation that the user has asked to be silent."""

from __future__ import annotations

import pytest
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, set_value

from hopspan.telemetry.suppression import is_suppressed


@pytest.mark.parametrize(
    "key", [_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"], ids=["api", "plain"]
)
def test_both_spellings_suppress(key: str) -> None:
    """The one of the API, and the plain one that older instrumentations set."""
    assert is_suppressed(set_value(key, True, Context())) is True


def test_nothing_is_suppressed_by_itself() -> None:
    assert is_suppressed(Context()) is False


def test_suppression_can_be_lifted() -> None:
    assert is_suppressed(set_value("suppress_instrumentation", False, Context())) is False
