"""Exceptions as span events, as log records, or as both."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context

from hopspan.conventions import Action
from hopspan.model import Endpoint, OperationType, Outcome
from hopspan.telemetry.spans import Operation
from tests.unit.support import Telemetry

ERROR = Outcome(True, ValueError("bad"), "ValueError", "bad")


def end(
    telemetry: Telemetry, exceptions: Any, type_: OperationType = OperationType.PROCESS
) -> Operation:
    operation = telemetry.instrumenter(exceptions=exceptions)._start(
        Action("act", type_), Endpoint("memory", "orders"), (Context(), Context(), ()), {}
    )
    operation.end(ERROR)
    return operation


@pytest.mark.parametrize(
    ("exceptions", "events", "logs"), [("event", 1, 0), ("logs", 0, 1), ("logs/dup", 1, 1)]
)
def test_where_an_exception_is_recorded(
    exceptions: str, events: int, logs: int, telemetry: Telemetry
) -> None:
    end(telemetry, exceptions)
    assert (len(telemetry.only.events), len(telemetry.logs)) == (events, logs)


@pytest.mark.parametrize(
    ("type_", "severity", "text"),
    [
        (OperationType.PROCESS, SeverityNumber.ERROR, "ERROR"),
        (OperationType.SEND, SeverityNumber.WARN, "WARN"),
        (OperationType.RECEIVE, SeverityNumber.WARN, "WARN"),
        (OperationType.SETTLE, SeverityNumber.WARN, "WARN"),
    ],
)
def test_the_log_record_is_the_event_of_the_conventions(
    type_: OperationType, severity: SeverityNumber, text: str, telemetry: Telemetry
) -> None:
    """A handler that fails is an error; a client call may be tried again."""
    end(telemetry, "logs", type_)
    (record,) = telemetry.logs
    assert (record.event_name, record.severity_number, record.severity_text) == (
        f"messaging.{type_.value}.exception",
        severity,
        text,
    )


def test_the_log_record_describes_the_exception(telemetry: Telemetry) -> None:
    end(telemetry, "logs")
    attributes = dict(telemetry.logs[0].attributes)
    stacktrace = attributes.pop("exception.stacktrace")
    assert attributes == {"exception.type": "ValueError", "exception.message": "bad"}
    assert stacktrace.endswith("ValueError: bad\n")


def test_the_log_record_belongs_to_the_span(telemetry: Telemetry) -> None:
    span = end(telemetry, "logs").span.get_span_context()
    record = telemetry.logs[0]
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)


def test_an_unsampled_span_has_its_log_record_all_the_same(unsampled: Telemetry) -> None:
    end(unsampled, "logs/dup")
    assert (len(unsampled.spans), len(unsampled.logs)) == (0, 1)


def test_a_failure_without_an_exception_has_no_record(telemetry: Telemetry) -> None:
    operation = telemetry.instrumenter(exceptions="logs/dup")._start(
        Action("act", OperationType.PROCESS), Endpoint("memory"), (Context(), Context(), ()), {}
    )
    operation.end(Outcome(failed=True, error_type="invalid_order"))
    assert (telemetry.only.events, telemetry.logs) == ((), [])


def test_no_logger_is_asked_for_where_none_is_wanted() -> None:
    class Failing:
        def get_logger(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("nobody wants logs")

    Telemetry().instrumenter(exceptions="event", logger_provider=Failing())


def test_a_silent_operation_records_nothing(telemetry: Telemetry) -> None:
    """It has no plan, so its event would have no name."""
    instrumenter = telemetry.instrumenter(exceptions="logs")
    operation = Operation(instrumenter, None, trace.INVALID_SPAN, Context())
    instrumenter.exceptions.record(operation, ValueError())
    assert telemetry.logs == []
