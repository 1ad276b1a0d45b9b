"""No check is without a test that finds its fault, and one in which it is silent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hopspan.doctor import CHECKS, Level, examine
from tests.doctor import test_application, test_variables

pytest.importorskip("pika")
ELSEWHERE = {
    "application": "test_application.test_a_set_up_that_fails_is_an_error...",
    "clients": "test_clients.test_an_old_client_is_an_error",
    "instrumentation": "test_clients.test_two_that_the_launcher_would_load_are_found",
    "exit and forks": "test_application.test_an_end_that_loses_spans_is_found",
}
"""Those whose faults are not in a table. All are silent about the good application."""


def test_every_check_is_made_to_find_something() -> None:
    faults = {case[0] for case in test_variables.FAULTS}
    faults |= {case[1] for case in test_application.FAULTS}
    assert faults | ELSEWHERE.keys() == {check.name for check in CHECKS}


def test_what_is_found_says_how_to_mend_it() -> None:
    """Every finding but a good one, of every table."""
    rows = [row for case in test_variables.FAULTS for row in case[2]]
    rows += [row for case in test_application.FAULTS for row in case[3]]
    assert [what for _, what, mend in rows if not mend] == []
    assert {level for level, _, _ in rows} == {"hint", "warning", "error"}


def test_what_is_well_asks_for_nothing() -> None:
    found = examine(test_variables.an_environment(test_variables.NAMED))
    assert [each for each in found if each.level is Level.OK and each.mend] == []


def test_every_check_is_documented_in_its_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    table = page.partition("\n| check | ")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == [check.name for check in CHECKS]
