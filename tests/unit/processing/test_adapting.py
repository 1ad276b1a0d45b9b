"""How the adapter of an object is found, and how a failure is put into its client's words."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from hopspan.model import Outcome, UnknownMessageError
from hopspan.processing import adapting
from hopspan.processing.adapting import (
    adapter_among,
    adapter_of,
    failure,
    unknown,
    use_locator,
)
from hopspan.testing import Message, memory
from tests.unit.support import Adapting


class Pair(NamedTuple):
    """A tuple that is a thing of its own, as a client's method frames may be."""

    first: Any
    second: Any


@pytest.mark.parametrize(
    ("candidates", "found"),
    [
        ((), None),
        ((None, 3, "text"), None),
        ((Message(),), memory),
        ((None, Message()), memory),
        (([Message()],), memory),
        (((1, Message()),), memory),
        (([(1, Message())],), memory),
        (([1, 2, 3, Message()],), memory),
        (([1, 2, 3, 4, Message()],), None),
        ((Pair(1, Message()),), None),
    ],
)
def test_the_first_object_of_a_known_client_decides(candidates: Any, found: Any) -> None:
    """Lists are looked into, but not through: a batch can be long."""
    assert adapter_among(candidates) is found


def test_without_a_locator_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "_locators", [])
    assert adapter_of(Message) is None


def test_the_last_locator_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "_locators", [])
    monkeypatch.setattr(adapting, "_serving", [])
    mine: Any = Adapting()
    use_locator(lambda kind: None, lambda handler: None)
    use_locator(lambda kind: mine if kind is int else None, lambda handler: None)
    assert (adapter_of(int), adapter_of(str)) == (mine, None)


@pytest.mark.parametrize(
    ("objects", "kinds"),
    [
        ((3, "x"), "int, str"),
        ((None, 3), "int"),
        ((None,), "nothing"),
        ((), "nothing"),
        ((Pair(1, 2),), "Pair"),
    ],
)
def test_the_error_for_unknown_objects_names_them_and_a_remedy(
    objects: tuple[Any, ...], kinds: str
) -> None:
    error = unknown("process", objects, "give it a message")
    assert (type(error), str(error)) == (
        UnknownMessageError,
        f"process: no message of a client that hopspan knows in what it was given ({kinds}); "
        "give it a message",
    )


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("hostile")


def cannot(error: BaseException) -> str:
    raise RuntimeError("an adapter that cannot")


BAD = ValueError("bad")
HOSTILE = UnprintableError()


@pytest.mark.parametrize(
    ("error", "error_type", "outcome"),
    [
        (BAD, lambda error: None, Outcome(True, BAD, "ValueError", "bad")),
        (BAD, lambda error: "not-found", Outcome(True, BAD, "not-found", "bad")),
        (BAD, cannot, Outcome(True, BAD, "ValueError", "bad")),
        (HOSTILE, lambda error: None, Outcome(True, HOSTILE, f"{__name__}.UnprintableError", None)),
        (HOSTILE, lambda error: "not-found", Outcome(True, HOSTILE, "not-found", None)),
    ],
)
def test_a_failure_is_in_the_clients_words_or_has_the_name_of_its_class(
    error: Exception, error_type: Any, outcome: Outcome
) -> None:
    adapter: Any = Adapting(error_type=error_type)
    assert failure(adapter, error) == outcome
