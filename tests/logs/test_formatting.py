from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hopspan import logs
from tests.logs.conftest import TRACE, Lines, Within, recording

By = Callable[[logging.Formatter], tuple[logging.Logger, Lines]]
MOMENT = 1_581_385_157.144_29
OWN = {
    "timestamp": "2020-02-11T01:39:17.144290Z",
    "level": "INFO",
    "logger": "orders",
    "message": "handled",
}


def a_record(**given: Any) -> logging.LogRecord:
    about = {"name": "orders", "levelname": "INFO", "msg": "handled", "created": MOMENT}
    return logging.makeLogRecord({**about, **given})


def line(record: logging.LogRecord, **options: Any) -> Any:
    text = logs.JsonFormatter(**options).format(record)
    assert "\n" not in text
    assert text.isascii()
    return json.loads(text, parse_constant=pytest.fail)


def test_a_record_is_one_line_of_json_with_its_time_in_utc() -> None:
    assert line(a_record()) == OWN


def test_a_whole_second_has_its_microseconds_too() -> None:
    """Text sorts as time does."""
    assert line(a_record(created=0.0))["timestamp"] == "1970-01-01T00:00:00.000000Z"


def test_the_trace_is_where_a_backend_looks_for_it(logging_by: By) -> None:
    logs.install(baggage=["tenant"])
    logger, lines = logging_by(logs.JsonFormatter())
    with Within(recording("orders")) as _, Within(tenant="acme"):
        logger.warning("handled %d", 3)
    found = lines.only
    assert {**found, "timestamp": ""} == {
        "timestamp": "",
        "level": "WARNING",
        "logger": "orders",
        "message": "handled 3",
        **TRACE,
        "tenant": "acme",
    }


def test_the_service_has_the_name_of_the_resource_attribute() -> None:
    assert line(a_record(**TRACE, service_name="shop")) == {**OWN, **TRACE, "service.name": "shop"}


def test_without_a_span_there_is_no_field_of_it(logging_by: By) -> None:
    logs.install(baggage=["tenant"])
    logger, lines = logging_by(logs.JsonFormatter())
    logger.warning("handled")
    assert sorted(lines.only) == ["level", "logger", "message", "timestamp"]


def test_extra_fields_keep_their_types() -> None:
    extra = {"order": 7, "price": 1.5, "paid": True, "note": None, "tags": ["a", {"b": 1}]}
    assert line(a_record(**extra)) == {**OWN, **extra}


def test_an_extra_field_does_not_replace_one_of_the_records_own() -> None:
    extra = {"level": 3, "timestamp": "then", "logger": "mine", "exception": "none"}
    assert line(a_record(**extra, exc_text="Traceback")) == {
        **OWN,
        "exception": "Traceback",
        **{f"extra.{name}": value for name, value in extra.items()},
    }


def test_an_exception_is_text() -> None:
    try:
        raise ValueError("no\nsuch order")
    except ValueError:
        record = a_record(exc_info=sys.exc_info())
    found = line(record)
    text = found.pop("exception")
    assert found == OWN
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ValueError: no\nsuch order")


def test_exc_info_outside_of_an_exception_is_no_failure() -> None:
    found = line(a_record(exc_info=(None, None, None)))
    assert found == {**OWN, "exception": "NoneType: None"}


def test_a_stack_is_text() -> None:
    assert line(a_record(stack_info="Stack:\n  here")) == {**OWN, "stack": "Stack:\n  here"}


def test_fields_can_have_the_names_of_a_backend() -> None:
    names = {"level": "severity", "trace_id": "logging.googleapis.com/trace"}
    found = line(a_record(trace_id="abc", severity="high"), names=names)
    assert found == {
        "timestamp": OWN["timestamp"],
        "severity": "INFO",
        "logger": "orders",
        "message": "handled",
        "logging.googleapis.com/trace": "abc",
        "extra.severity": "high",
    }


def test_fields_can_be_on_every_line_and_the_records_own_go_first() -> None:
    always = {"service.name": "orders", "region": "eu"}
    assert line(a_record(), always=always) == {**always, **OWN}
    assert line(a_record(service_name="shop"), always=always) == {
        **always,
        **OWN,
        "service.name": "shop",
    }


class Order:
    def __str__(self) -> str:
        return "an order"


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Order(), "an order"),
        ({"of": Order()}, {"of": "an order"}),
        (Broken(), "<Broken>"),
        ([Broken()], ["<Broken>"]),
        (b"bytes", "b'bytes'"),
        (math.nan, "nan"),
        ([-math.inf], "[-inf]"),
        ({("a", "b"): 1}, "{('a', 'b'): 1}"),
        (CIRCLE, "[[...]]"),
        ("\ud800 \u2028 é\x00", "\ud800 \u2028 é\x00"),
        (10**400, 10**400),
    ],
    ids=[
        *("object", "nested object", "broken", "nested broken", "bytes", "NaN", "infinity"),
        *("key", "circle", "surrogate", "huge"),
    ],
)
def test_what_is_no_json_is_text(value: Any, written: Any) -> None:
    assert line(a_record(value=value, order=7)) == {**OWN, "value": written, "order": 7}


def test_what_is_too_deep_is_written_somehow() -> None:
    found = line(a_record(value=DEEP, order=7))
    assert {**found, "value": ""} == {**OWN, "value": "", "order": 7}


def test_a_message_whose_arguments_do_not_fit_is_written_with_them() -> None:
    """The standard library would lose the line, and print a traceback in its place."""
    found = line(a_record(msg="%d orders from %s", args=("many",)))
    assert found == {**OWN, "message": "%d orders from %s ('many',)"}


def test_a_message_that_cannot_be_text_is_named() -> None:
    found = line(a_record(msg=Broken(), args=()))
    assert found == {**OWN, "message": "<Broken> ()"}
