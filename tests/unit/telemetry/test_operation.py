"""One running operation: it ends once, as its outcome says, and an unrecorded one keeps its status."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, Status, StatusCode

from hopspan.conventions import PROCESS, Action
from hopspan.model import SUCCESS, Endpoint, OperationType, Outcome
from hopspan.telemetry import Operation
from hopspan.telemetry.recording import start
from tests.unit.support import Seen, Telemetry

ATTRIBUTES = {
    "messaging.system": "memory",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": "orders",
}
FROM_NOTHING = (Context(), Context(), ())
DONE = Seen("process orders", attributes=ATTRIBUTES)
FAILED = Outcome(failed=True, error_type="invalid_order", description="no customer")


def begin(telemetry: Telemetry, **settings: Any) -> Operation:
    instrumenter = telemetry.instrumenter(**settings)
    return start(instrumenter, PROCESS, Endpoint("memory", "orders"), FROM_NOTHING, {})


def silent(context: Context) -> Operation:
    """An operation whose span nobody sees."""
    operation = Operation()
    operation.start_unrecorded(context)
    return operation


# -- ending ----------------------------------------------------------------------------------------


def test_success_leaves_the_status_unset(telemetry: Telemetry) -> None:
    begin(telemetry).end()
    assert telemetry.only == DONE


def test_failure_is_an_error_with_its_type_and_description(telemetry: Telemetry) -> None:
    begin(telemetry).end(FAILED)
    assert telemetry.only == DONE._replace(
        attributes={**ATTRIBUTES, "error.type": "invalid_order"},
        status=("ERROR", "no customer"),
    )


def test_an_exception_is_an_event(telemetry: Telemetry) -> None:
    begin(telemetry).end(Outcome(True, ValueError("bad"), "ValueError", "bad"))
    assert telemetry.only == DONE._replace(
        attributes={**ATTRIBUTES, "error.type": "ValueError"},
        status=("ERROR", "bad"),
        events=("exception",),
    )


def test_an_error_that_is_no_failure_is_not_recorded(telemetry: Telemetry) -> None:
    """Cancellation and control flow are neither success nor failure."""
    begin(telemetry).end(Outcome(error=GeneratorExit(), cancelled=True))
    assert telemetry.only == DONE


def test_what_became_known_late_is_on_the_span(telemetry: Telemetry) -> None:
    begin(telemetry).end(attributes={"hopspan.settlement": "ack"})
    assert telemetry.only == DONE._replace(attributes={**ATTRIBUTES, "hopspan.settlement": "ack"})


def test_it_ends_once(telemetry: Telemetry) -> None:
    operation = begin(telemetry)
    operation.end()
    operation.end(FAILED)
    assert telemetry.seen == [DONE]
    assert telemetry.points("messaging.client.consumed.messages") == [
        ({key: value for key, value in ATTRIBUTES.items() if "type" not in key}, 1)
    ]


def test_a_status_that_the_user_set_to_ok_stays(telemetry: Telemetry) -> None:
    """OK is final, says the specification; the error type tells all the same."""
    operation = begin(telemetry)
    operation.span.set_status(StatusCode.OK)
    operation.end(FAILED)
    assert telemetry.only == DONE._replace(
        attributes={**ATTRIBUTES, "error.type": "invalid_order"}, status=("OK", None)
    )


def test_it_is_timed_from_start_to_end(telemetry: Telemetry) -> None:
    operation = begin(telemetry)
    first = operation.elapsed()
    assert 0 <= first <= operation.elapsed()


def test_a_silent_operation_ends_without_a_trace(telemetry: Telemetry) -> None:
    silent(Context()).end(FAILED)
    assert telemetry.spans == []


# -- what it says of itself ------------------------------------------------------------------------


def test_it_knows_its_action_and_endpoint(telemetry: Telemetry) -> None:
    operation = begin(telemetry)
    assert (operation.action, operation.endpoint) == (PROCESS, Endpoint("memory", "orders"))
    operation.end()


def test_a_silent_one_has_neither() -> None:
    operation = silent(Context())
    assert (operation.plan, operation.action, operation.endpoint) == (None, None, None)


def test_its_span_is_current_in_its_context(telemetry: Telemetry) -> None:
    operation = begin(telemetry)
    assert trace.get_current_span(operation.context) is operation.span
    operation.end()


# -- failure by status -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sampled", "unsampled", "silent", "no SDK"])
@pytest.mark.parametrize(
    ("set_", "outcome"),
    [
        (lambda span: None, SUCCESS),
        (lambda span: span.set_status(StatusCode.OK), SUCCESS),
        (lambda span: span.set_status(StatusCode.UNSET), SUCCESS),
        (
            lambda span: span.set_status(StatusCode.ERROR),
            Outcome(failed=True, error_type="_OTHER"),
        ),
        (
            lambda span: span.set_status(StatusCode.ERROR, "no customer"),
            Outcome(failed=True, error_type="_OTHER", description="no customer"),
        ),
        (
            lambda span: span.set_status(Status(StatusCode.ERROR, "no customer")),
            Outcome(failed=True, error_type="_OTHER", description="no customer"),
        ),
        (
            lambda span: (
                span.set_attribute("error.type", "invalid_order"),
                span.set_status(StatusCode.ERROR),
            ),
            Outcome(failed=True, error_type="invalid_order"),
        ),
        (
            lambda span: (
                span.set_attributes({"tenant": "acme", "error.type": "invalid_order"}),
                span.set_attribute("other", "x"),
                span.set_status(StatusCode.ERROR),
            ),
            Outcome(failed=True, error_type="invalid_order"),
        ),
        (lambda span: span.set_attribute("error.type", "invalid_order"), SUCCESS),
    ],
)
def test_a_status_tells_the_outcome_whatever_is_recorded(
    kind: str, set_: Any, outcome: Outcome, telemetry: Telemetry, unsampled: Telemetry
) -> None:
    """The decision about a message must not depend on sampling."""
    operation = {
        "sampled": lambda: begin(telemetry),
        "unsampled": lambda: begin(unsampled),
        "silent": lambda: silent(Context()),
        "no SDK": lambda: begin(telemetry, tracer_provider=trace.NoOpTracerProvider()),
    }[kind]()
    set_(operation.span)
    assert operation.failed_status() == outcome
    operation.end()


def test_a_span_of_another_sdk_without_a_status_has_not_failed() -> None:
    """Only the API is common to all: a span need not tell its status."""
    operation = silent(Context())
    operation.span = NonRecordingSpan(INVALID_SPAN_CONTEXT)
    assert operation.failed_status() == SUCCESS


# -- an operation without a span to be seen -------------------------------------------------------


def test_a_silent_operation_goes_on_in_the_trace_that_is_there(telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("ambient") as span:
        context = trace.set_span_in_context(span, Context())
    operation = silent(context)
    assert operation.span.get_span_context() == span.get_span_context()


def test_a_status_set_inside_a_silent_operation_is_not_set_on_the_ambient_span(
    telemetry: Telemetry,
) -> None:
    with telemetry.tracer.start_as_current_span("ambient") as span:
        operation = silent(trace.set_span_in_context(span, Context()))
        trace.get_current_span(operation.context).set_status(StatusCode.ERROR)
    assert telemetry.only.status == ("UNSET", None)


# -- hooks -----------------------------------------------------------------------------------------


def test_hooks_get_the_operation_and_the_native_object(telemetry: Telemetry) -> None:
    calls: list[tuple[str, Any, Any, bool]] = []

    def on_start(operation: Operation, native: Any) -> None:
        calls.append(("start", operation, native, operation.span.is_recording()))

    def on_end(operation: Operation, native: Any) -> None:
        calls.append(("end", operation, native, operation.span.is_recording()))

    operation = begin(telemetry, on_start=on_start, on_end=on_end)
    operation.call_on_start("the native")
    operation.end()
    assert calls == [
        ("start", operation, "the native", True),
        ("end", operation, "the native", True),
    ]


def test_the_end_hook_sees_how_it_went_and_can_add_to_it(telemetry: Telemetry) -> None:
    def on_end(operation: Operation, _native: Any) -> None:
        span = operation.span
        assert isinstance(span, ReadableSpan)
        span.set_attribute("seen", span.status.status_code.name)  # type: ignore[attr-defined]

    begin(telemetry, on_end=on_end).end(FAILED)
    assert telemetry.only.attributes["seen"] == "ERROR"


def test_a_silent_operation_calls_no_hook() -> None:
    silent(Context()).call_on_start("the native")


# -- hostile ---------------------------------------------------------------------------------------


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("hostile")


def test_an_exception_that_cannot_be_printed_still_fails_the_span(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    """Only its event is missing; status, error type and metrics are there."""
    begin(telemetry).end(Outcome(True, UnprintableError(), "Unprintable"))
    assert telemetry.only == DONE._replace(
        attributes={**ATTRIBUTES, "error.type": "Unprintable"}, status=("ERROR", None)
    )
    assert [point[1] for point in telemetry.points("messaging.process.duration")] == [1]
    assert [record.levelname for record in logged.records] == ["ERROR"]


class Raising(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("a processor that cannot")


def test_a_processor_that_raises_at_the_end_is_logged_once(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    telemetry.tracer_provider.add_span_processor(Raising())
    for _ in range(2):
        begin(telemetry).end()
    assert [record.message for record in logged.records] == [
        "hopspan failed at ending a span (RuntimeError); the message went on without it. "
        "Further failures of this kind are silent"
    ]


def test_a_span_that_takes_no_attributes_still_ends(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Any, *attributes: Any) -> None:
        raise RuntimeError("no attributes")

    operation = begin(telemetry)
    for name in ("set_attribute", "set_attributes"):
        monkeypatch.setattr(type(operation.span), name, refuse)
    operation.end(attributes={"late": True})
    assert telemetry.only == DONE
    assert len(logged.records) == 1


# -- metrics of each type --------------------------------------------------------------------------

PLAIN = {
    "messaging.system": "memory",
    "messaging.operation.name": "act",
    "messaging.destination.name": "orders",
}


def act(telemetry: Telemetry, type_: OperationType, outcome: Outcome, **ending: Any) -> None:
    action, endpoint = Action("act", type_), Endpoint("memory", "orders")
    operation = start(telemetry.instrumenter(), action, endpoint, FROM_NOTHING, {})
    operation.end(outcome, **ending)


@pytest.mark.parametrize(
    ("type_", "durations", "counts"),
    [
        (
            OperationType.SEND,
            "messaging.client.operation.duration",
            "messaging.client.sent.messages",
        ),
        (
            OperationType.RECEIVE,
            "messaging.client.operation.duration",
            "messaging.client.consumed.messages",
        ),
        (
            OperationType.PROCESS,
            "messaging.process.duration",
            "messaging.client.consumed.messages",
        ),
        (OperationType.SETTLE, "messaging.client.operation.duration", None),
    ],
)
@pytest.mark.parametrize(
    ("outcome", "error"), [(SUCCESS, {}), (FAILED, {"error.type": "invalid_order"})]
)
def test_each_type_measures_its_own_duration_and_count(
    type_: OperationType,
    durations: str,
    counts: str | None,
    outcome: Outcome,
    error: dict[str, str],
    telemetry: Telemetry,
) -> None:
    """One record an operation, the same `error.type` as on the span, failures counted too."""
    act(telemetry, type_, outcome)
    measured = {
        name: telemetry.points(name)
        for name in (
            "messaging.client.operation.duration",
            "messaging.process.duration",
            "messaging.client.sent.messages",
            "messaging.client.consumed.messages",
        )
        if telemetry.points(name)
    }
    typed = {} if type_ is OperationType.PROCESS else {"messaging.operation.type": type_.value}
    expected = {durations: [({**PLAIN, **typed, **error}, 1)]}
    if counts is not None:
        expected[counts] = [({**PLAIN, **error}, 1)]
    assert measured == expected


@pytest.mark.parametrize(
    "type_", [OperationType.SEND, OperationType.RECEIVE, OperationType.PROCESS]
)
@pytest.mark.parametrize(("messages", "counted"), [(0, []), (1, [1]), (7, [7])])
def test_messages_are_counted_as_told(
    type_: OperationType, messages: int, counted: list[int], telemetry: Telemetry
) -> None:
    act(telemetry, type_, SUCCESS, messages=messages)
    name = "sent" if type_ is OperationType.SEND else "consumed"
    points = telemetry.points(f"messaging.client.{name}.messages")
    assert [value for _, value in points] == counted


def test_the_duration_can_be_told(telemetry: Telemetry) -> None:
    act(telemetry, OperationType.SETTLE, SUCCESS, seconds=2.5)
    (point,) = telemetry.metric("messaging.client.operation.duration").data.data_points
    assert point.sum == 2.5


def test_metrics_that_cannot_be_recorded_do_not_cost_the_span(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("no metrics")

    operation = begin(telemetry)
    monkeypatch.setattr("hopspan.telemetry.metrics.Meters.processing", refuse)
    operation.end(FAILED)
    assert telemetry.only.status == ("ERROR", "no customer")
    assert len(logged.records) == 1


def test_a_failure_without_a_type_is_an_error_all_the_same(telemetry: Telemetry) -> None:
    begin(telemetry).end(Outcome(failed=True, description="no customer"))
    assert telemetry.only == DONE._replace(status=("ERROR", "no customer"))
