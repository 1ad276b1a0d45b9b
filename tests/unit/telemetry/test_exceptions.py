"""Exceptions as span events, as log records, or as both."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span

from hopspan.conventions import Action
from hopspan.model import Endpoint, OperationType, Outcome
from hopspan.telemetry import Operation
from hopspan.telemetry.recording import start
from tests.unit.support import Telemetry

ERROR = Outcome(True, ValueError("bad"), "ValueError", "bad")


def end(
    telemetry: Telemetry, exceptions: Any, type_: OperationType = OperationType.PROCESS
) -> Operation:
    operation = start(
        telemetry.instrumenter(exceptions=exceptions),
        Action("act", type_),
        Endpoint("memory", "orders"),
        (Context(), Context(), ()),
        {},
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
    operation = start(
        telemetry.instrumenter(exceptions="logs/dup"),
        Action("act", OperationType.PROCESS),
        Endpoint("memory"),
        (Context(), Context(), ()),
        {},
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
    operation = Operation()
    operation.start_unrecorded(Context())
    operation.end(ERROR)
    assert telemetry.logs == []


def test_a_wrapped_record_exception_is_called(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes from exceptions what is private."""
    original, seen = Span.record_exception, []

    @functools.wraps(original)
    def scrubbing(self: Span, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        seen.append(exception)
        original(self, ValueError("removed"), *args, **kwargs)

    monkeypatch.setattr(Span, "record_exception", scrubbing)
    end(telemetry, "event")
    assert (seen, telemetry.only.events) == ([ERROR.error], ("exception",))


def ours() -> Any:
    """A function of hopspan's that calls a handler."""
    module: dict[str, Any] = {"__name__": "hopspan.delivery.decorator"}
    code = "def handle(handler):\n    handler()\n"
    exec(compile(code, "handlers.py", "exec"), module)  # noqa: S102 - a frame with another name
    return module["handle"]


def theirs() -> None:
    raise ValueError("bad")


def test_the_trace_begins_at_the_handler(telemetry: Telemetry) -> None:
    try:
        ours()(theirs)
    except ValueError as raised:
        assert raised.__traceback__ is not None
        raised.__traceback__ = raised.__traceback__.tb_next  # this test's own frame
        frames = raised.__traceback__
        error = raised
    operation = start(
        telemetry.instrumenter(exceptions="logs"),
        Action("act", OperationType.PROCESS),
        Endpoint("memory"),
        (Context(), Context(), ()),
        {},
    )
    operation.end(Outcome(True, error, "ValueError", "bad"))
    (record,) = telemetry.logs
    stacktrace = str((record.attributes or {})["exception.stacktrace"])
    assert "in theirs" in stacktrace
    assert "in handle" not in stacktrace
    assert error.__traceback__ is frames
