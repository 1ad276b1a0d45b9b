"""Our own faults: logged once per place, and never in anybody's way."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from hopspan import faults


def fail_here() -> None:
    raise ValueError("ours")


def fail_there() -> None:
    raise ValueError("ours")


def report(failing: Callable[[], None], doing: str = "testing") -> None:
    try:
        failing()
    except ValueError:
        faults.report(doing)


def test_a_fault_is_logged_once_for_its_line(logged: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        report(fail_here)
    assert [record.message for record in logged.records] == [
        "hopspan failed at testing (ValueError); the message went on without it. "
        "Further failures of this kind are silent"
    ]


def test_a_fault_of_another_line_is_another(logged: pytest.LogCaptureFixture) -> None:
    report(fail_here)
    report(fail_there)
    assert len(logged.records) == 2


def test_the_same_line_in_another_undertaking_is_another(logged: pytest.LogCaptureFixture) -> None:
    for doing in ("sending", "receiving"):
        report(fail_here, doing)
    assert len(logged.records) == 2


def test_a_fault_is_an_error_with_its_traceback(logged: pytest.LogCaptureFixture) -> None:
    report(fail_here)
    (record,) = logged.records
    assert (record.name, record.levelno, bool(record.exc_info)) == ("hopspan", logging.ERROR, True)


def test_its_level_can_be_lower(logged: pytest.LogCaptureFixture) -> None:
    try:
        fail_here()
    except ValueError:
        faults.report("testing", level=logging.WARNING)
    assert [record.levelno for record in logged.records] == [logging.WARNING]


def test_reporting_outside_an_exception_is_harmless(logged: pytest.LogCaptureFixture) -> None:
    faults.report("nothing")
    assert len(logged.records) == 1


def test_a_remark_is_made_once_for_its_arguments(logged: pytest.LogCaptureFixture) -> None:
    for queue in ("a", "a", "b"):
        faults.once("no such %s", queue)
    assert [record.message for record in logged.records] == ["no such a", "no such b"]


def test_a_remark_is_a_warning_unless_told_otherwise(logged: pytest.LogCaptureFixture) -> None:
    faults.once("by default")
    faults.once("told", level=logging.INFO)
    assert [record.levelno for record in logged.records] == [logging.WARNING, logging.INFO]


def test_a_remark_has_a_traceback_only_when_asked_for(logged: pytest.LogCaptureFixture) -> None:
    faults.once("without")
    try:
        fail_here()
    except ValueError:
        faults.once("with", exc_info=True)
    assert [bool(record.exc_info) for record in logged.records] == [False, True]


def test_what_is_remembered_is_bounded(
    logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault with an endless number of places must not fill the memory, nor the log."""
    monkeypatch.setattr(faults, "_MOST_PLACES", 2)
    for number in range(5):
        faults.once("number %s", number)
    report(fail_here)
    assert [record.message for record in logged.records] == ["number 0", "number 1"]


def test_forgetting_makes_it_new(logged: pytest.LogCaptureFixture) -> None:
    faults.once("again")
    faults.forget()
    faults.once("again")
    assert len(logged.records) == 2
