"""The vocabulary: values that can be compared, kept as keys, and printed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from hopspan import model
from hopspan.model import (
    SUCCESS,
    ConfigurationError,
    Endpoint,
    HopspanError,
    Outcome,
    PolicyError,
    Settlement,
    UnknownMessageError,
    Verdict,
)


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (ConfigurationError, (HopspanError, ValueError)),
        (PolicyError, (HopspanError,)),
        (UnknownMessageError, (HopspanError, TypeError)),
    ],
)
def test_every_error_is_a_hopspan_error_and_what_python_calls_it(
    error: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    assert bases == tuple(base for base in bases if issubclass(error, base))


def test_an_endpoint_is_a_key() -> None:
    """Equal endpoints are one key, for the caches."""
    assert len({Endpoint("rabbitmq", "orders"), Endpoint("rabbitmq", "orders")}) == 1


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Endpoint("rabbitmq"), "destination"),
        (Settlement(Verdict.ACK), "verdict"),
        (SUCCESS, "failed"),
    ],
)
def test_values_cannot_be_changed(value: Any, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, field, "other")


def test_success_says_nothing_of_an_error() -> None:
    assert Outcome(False, None, None, None, False, False) == SUCCESS


def test_it_imports_nothing_but_the_standard_library() -> None:
    """The lowest layer: everything may import it, so it may import nothing."""
    tree = ast.parse(Path(model.__file__).read_text())
    imported = {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == set()
