"""What a message makes the interpreter do: the same in every run, so that a slow step is noticed."""

from __future__ import annotations

import re
from collections import Counter

import pytest

pytest.importorskip("opentelemetry.instrumentation.pika", reason="needs the extra `bench`")

from benchmarks.counting import count, report
from benchmarks.groups import BARE, CONTRIB, HOPSPAN, standard_groups
from benchmarks.sampling import Row

# What is allowed beyond contrib, which does far less: a step too many for every message is over it.
MOST = {
    "pika publish, sampled": 1.0,
    "pika publish, no SDK": 0.2,
    "pika consume, sampled": 1.3,
    "aio-pika publish, sampled": 1.0,
    "kafka-python send, sampled": 1.0,
    "Celery run, sampled": 1.1,
}


def helps() -> None:
    pass


def helps_twice(given: range) -> None:
    for _ in given:
        helps()
        helps()


def test_functions_and_bytecodes_of_one_message_are_counted() -> None:
    counts = count(Row("row", helps_twice))
    assert counts.calls == 2
    assert counts.functions.keys() == {f"{__name__}:helps", f"{__name__}:helps_twice"}
    assert counts.bytecodes == counts.functions.total()
    assert isinstance(counts.functions, Counter)


def test_what_it_counts_is_the_same_every_time() -> None:
    row = Row("row", helps_twice)
    assert count(row) == count(row)


@pytest.mark.parametrize("name", MOST)
def test_a_message_takes_no_more_calls_than_it_must(name: str) -> None:
    for group in standard_groups()[name]():
        calls = {
            row.name: count(row).calls for row in group.rows if row.name in {BARE, CONTRIB, HOPSPAN}
        }
        assert calls[HOPSPAN] - calls[BARE] <= MOST[name] * (calls[CONTRIB] - calls[BARE])


def test_the_report_has_a_line_for_each_row_and_hopspans_functions() -> None:
    told = report(standard_groups()["pika publish, sampled"]())
    assert re.search(r"^ +\d+  hopspan\.", told, re.MULTILINE)
    for row in ("bare", "SDK floor", "API floor", "contrib", "hopspan"):
        assert f"\n  {row} " in told
