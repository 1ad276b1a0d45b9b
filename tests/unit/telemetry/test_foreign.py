"""A recording span that is not the SDK's: everything is passed on, and the status remembered."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags, Tracer

from hopspan.model import SUCCESS, Outcome
from hopspan.propagation import MAPPING
from hopspan.telemetry.foreign import WatchedSpan, telling
from tests.unit.support import Telemetry, delivery, named

CONTEXT = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))


class Theirs(Span):
    """Another SDK's span: the API's methods, and nothing to be read."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def get_span_context(self) -> SpanContext:
        return CONTEXT

    def is_recording(self) -> bool:
        return True

    def end(self, end_time: int | None = None) -> None:
        self.calls.append(("end", end_time))

    def set_attributes(self, attributes: Any) -> None:
        self.calls.append(("set_attributes", attributes))

    def set_attribute(self, key: str, value: Any) -> None:
        self.calls.append(("set_attribute", key, value))

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.calls.append(("add_event", name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        self.calls.append(("add_link", context, attributes))

    def update_name(self, name: str) -> None:
        self.calls.append(("update_name", name))

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self.calls.append(("set_status", status, description))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self.calls.append(("record_exception", exception, attributes, timestamp, escaped))


class TheirTracer(Tracer):
    def __init__(self, span: Theirs) -> None:
        self.span = span

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        return self.span

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class TheirProvider(trace.TracerProvider):
    def __init__(self, span: Theirs) -> None:
        self.span = span

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return TheirTracer(self.span)


ERROR = ValueError("bad")


@pytest.mark.parametrize(
    "call",
    [
        ("end", 7),
        ("set_attributes", {"a": 1, "error.type": "x"}),
        ("set_attribute", "a", 1),
        ("add_event", "e", {"a": 1}, 3),
        ("add_link", CONTEXT, {"a": 1}),
        ("update_name", "n"),
        ("set_status", StatusCode.ERROR, "bad"),
        ("record_exception", ERROR, {"a": 1}, 3, True),
    ],
)
def test_everything_is_passed_on(call: tuple[Any, ...]) -> None:
    theirs = Theirs()
    name, *args = call
    getattr(WatchedSpan(theirs), name)(*args)
    assert theirs.calls == [call]


def test_what_is_left_out_is_left_out() -> None:
    theirs = Theirs()
    watched = WatchedSpan(theirs)
    watched.record_exception(ERROR)
    watched.add_event("e")
    watched.end()
    assert theirs.calls == [
        ("record_exception", ERROR, None, None, False),
        ("add_event", "e", None, None),
        ("end", None),
    ]


def test_it_is_the_span_that_it_watches() -> None:
    watched = WatchedSpan(Theirs())
    assert (watched.get_span_context(), watched.is_recording()) == (CONTEXT, True)


def test_the_status_is_remembered() -> None:
    watched = WatchedSpan(Theirs())
    watched.set_status(StatusCode.ERROR, "bad")
    assert named(watched.status) == ("ERROR", "bad")


@pytest.mark.parametrize(
    "tell",
    [
        lambda span: span.set_attribute("error.type", "invalid_order"),
        lambda span: span.set_attributes({"a": 1, "error.type": "invalid_order"}),
    ],
)
def test_the_kind_of_failure_is_remembered(tell: Any) -> None:
    watched = WatchedSpan(Theirs())
    tell(watched)
    assert watched.attributes == {"error.type": "invalid_order"}


def test_a_handler_fails_by_the_status_of_a_span_that_does_not_tell_it(
    telemetry: Telemetry,
) -> None:
    """The decision is the same whatever makes the spans."""
    theirs = Theirs()
    instrumenter = telemetry.instrumenter(tracer_provider=TheirProvider(theirs))
    operation = instrumenter.start_process([delivery()], MAPPING, pushed=True)
    assert operation.failed_status() == SUCCESS
    trace.get_current_span(operation.context).set_status(StatusCode.ERROR, "bad")
    assert operation.failed_status() == Outcome(failed=True, error_type="_OTHER", description="bad")
    operation.end()
    assert theirs.calls[-1] == ("end", None)


class Unreadable(Theirs):
    """One whose status can be written, and not read."""

    @property
    def status(self) -> Status:
        raise NotImplementedError("write-only")


def test_a_status_that_cannot_be_read_is_not_read_while_the_span_starts() -> None:
    span = Unreadable()
    assert telling(span, Context()) is span
