"""Spans whose status can be read: in place of unrecorded ones, and around those of another SDK."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

import hopspan
from hopspan.conventions import Action
from hopspan.model import SUCCESS, Endpoint, MessageInfo, OperationType, Outcome, Outgoing, Verdict
from hopspan.propagation import MAPPING, sender_of
from hopspan.telemetry import start_send
from hopspan.telemetry.spans import (
    LateSpan,
    StatusProxySpan,
    StatusSpan,
    with_readable_status,
)
from tests.unit.support import Given, Telemetry, delivery, handle, named

PUBLISH = Action("publish", OperationType.SEND)
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
    getattr(StatusProxySpan(theirs), name)(*args)
    assert theirs.calls == [call]


def test_what_is_left_out_is_left_out() -> None:
    theirs = Theirs()
    proxy = StatusProxySpan(theirs)
    proxy.record_exception(ERROR)
    proxy.add_event("e")
    proxy.end()
    assert theirs.calls == [
        ("record_exception", ERROR, None, None, False),
        ("add_event", "e", None, None),
        ("end", None),
    ]


def test_it_is_the_span_that_it_watches() -> None:
    proxy = StatusProxySpan(Theirs())
    assert (proxy.get_span_context(), proxy.is_recording()) == (CONTEXT, True)


def test_the_status_is_remembered() -> None:
    proxy = StatusProxySpan(Theirs())
    proxy.set_status(StatusCode.ERROR, "bad")
    assert named(proxy.status) == ("ERROR", "bad")


@pytest.mark.parametrize(
    "tell",
    [
        lambda span: span.set_attribute("error.type", "invalid_order"),
        lambda span: span.set_attributes({"a": 1, "error.type": "invalid_order"}),
    ],
)
def test_the_kind_of_failure_is_remembered(tell: Any) -> None:
    proxy = StatusProxySpan(Theirs())
    tell(proxy)
    assert proxy.attributes == {"error.type": "invalid_order"}


def test_a_handler_fails_by_the_status_of_a_span_that_does_not_tell_it() -> None:
    """The decision is the same whatever makes the spans."""
    theirs = Theirs()
    message = delivery()

    def handler(handled: Given) -> None:
        assert handled.failed_status() == SUCCESS
        trace.get_current_span().set_status(StatusCode.ERROR, "bad")

    provider = TheirProvider(theirs)
    handle([message], handler, tracer_provider=provider, policy=hopspan.reject_on_error)
    assert message.outcome == Outcome(failed=True, error_type="_OTHER", description="bad")
    assert [each.verdict for each in message.settlements] == [Verdict.REJECT]
    assert theirs.calls[-1] == ("end", None)


class Unreadable(Theirs):
    """One whose status can be written, and not read."""

    @property
    def status(self) -> Status:
        raise NotImplementedError("write-only")


def test_a_status_that_cannot_be_read_is_not_read_while_the_span_starts() -> None:
    span = Unreadable()
    assert with_readable_status(span, Context()) is span


# -- spans whose status nobody asks for ------------------------------------------------------------

AROUND = set_span_in_context(NonRecordingSpan(CONTEXT), Context())


class Unrecorded(Theirs):
    """One that may be the application's own: a tracer that records nothing hands out what is current."""

    def is_recording(self) -> bool:
        return False


class Nobodys(Unrecorded):
    def get_span_context(self) -> SpanContext:
        return INVALID_SPAN_CONTEXT


@pytest.mark.parametrize("span", [NonRecordingSpan(CONTEXT), Theirs()])
def test_a_span_whose_status_nobody_asks_for_is_left_as_it_is(span: Span) -> None:
    assert with_readable_status(span, AROUND, is_needed=False) is span


@pytest.mark.parametrize("is_needed", [True, False])
@pytest.mark.parametrize(
    "span", [Unrecorded(), Nobodys(), INVALID_SPAN, NonRecordingSpan(INVALID_SPAN_CONTEXT)]
)
def test_what_may_be_another_ones_span_or_nobodys_has_one_in_its_place(
    span: Span, is_needed: bool
) -> None:
    told = with_readable_status(span, AROUND, is_needed=is_needed)
    assert (type(told), told.get_span_context()) == (StatusSpan, CONTEXT)


@pytest.mark.parametrize("hooks", [(), ("on_start",), ("on_end",)])
def test_hooks_may_ask_for_the_status_of_every_span(
    hooks: tuple[str, ...], unsampled: Telemetry
) -> None:
    leaving = Outgoing(Endpoint("memory"), MessageInfo(), None, lambda changed: ((changed,), {}))
    instrumenter = unsampled.instrumenter(**dict.fromkeys(hooks, lambda *_: None))
    operation, _ = start_send(instrumenter, PUBLISH, leaving, MAPPING)
    assert hasattr(operation.span, "status") == bool(hooks)


def test_a_publish_does_not_end_what_is_current(telemetry: Telemetry) -> None:
    theirs = Unrecorded()
    instrumenter = telemetry.instrumenter(tracer_provider=TheirProvider(theirs))
    leaving = Outgoing(Endpoint("memory"), MessageInfo(), None, lambda changed: ((changed,), {}))
    operation, headers = start_send(instrumenter, PUBLISH, leaving, MAPPING)
    operation.end(Outcome(failed=True, error_type="x"), {"a": 1})
    assert theirs.calls == []
    assert headers == {"traceparent": f"00-{1:032x}-{2:016x}-01"}


# -- the span that keeps its status ---------------------------------------------------------------------

STATUSES = st.sampled_from(list(StatusCode)).flatmap(
    lambda code: st.sampled_from(
        [(code,), (code, "x"), (Status(code),)]
        + ([(Status(code, "y"),), (Status(code, "y"), None)] if code is StatusCode.ERROR else [])
    )
)


@given(st.lists(STATUSES, max_size=6))
def test_statuses_take_precedence_as_in_the_sdk(statuses: Sequence[Any]) -> None:
    """OK is final, UNSET is ignored, of two errors the later one holds."""
    logging.disable(logging.WARNING)  # the SDK remarks on descriptions that it drops
    try:
        span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("x")
        kept = StatusSpan(INVALID_SPAN_CONTEXT)
        for status in statuses:
            span.set_status(*status)
            kept.set_status(*status)
    finally:
        logging.disable(logging.NOTSET)
    assert isinstance(span, ReadableSpan)
    assert named(kept.status) == named(span.status)


def test_a_status_span_keeps_its_identity(telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("x") as span:
        kept = StatusSpan(span.get_span_context())
    assert kept.get_span_context() == span.get_span_context()


def test_a_status_span_forgets_everything_else() -> None:
    span = StatusSpan(INVALID_SPAN_CONTEXT)
    span.set_attribute("a", 1)
    span.add_event("x")
    span.add_link(INVALID_SPAN_CONTEXT)
    span.update_name("y")
    span.record_exception(ValueError())
    span.end()
    assert (span.is_recording(), span.attributes, named(span.status)) == (
        False,
        {},
        ("UNSET", None),
    )


def test_a_nested_span_without_an_sdk_is_another_span() -> None:
    """The API hands a current `NonRecordingSpan` out again as every nested span: not so ours."""
    outer = StatusSpan(INVALID_SPAN_CONTEXT)
    context = trace.set_span_in_context(outer, Context())
    nested = trace.NoOpTracer().start_span("nested", context)
    nested.set_status(StatusCode.ERROR)
    assert named(outer.status) == ("UNSET", None)


# -- identities that are made when they are asked for ----------------------------------------------

TRACEPARENT = f"00-{1:032x}-{2:016x}-01"


@pytest.mark.parametrize(
    ("traceparent", "sender"),
    [
        (TRACEPARENT, SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))),
        (TRACEPARENT.encode(), SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))),
        # Of a later version, which only the propagator reads.
        (f"01{TRACEPARENT[2:]}", SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))),
        ("00-malformed", INVALID_SPAN_CONTEXT),
        (7, INVALID_SPAN_CONTEXT),
        (None, INVALID_SPAN_CONTEXT),
    ],
)
def test_a_stand_in_for_a_sender_has_the_identity_that_the_header_names(
    traceparent: Any, sender: SpanContext
) -> None:
    span = LateSpan(traceparent, sender_of)
    assert span.get_span_context() == span.get_span_context() == sender
    assert span.is_recording() is False


def test_a_stand_in_keeps_its_status_like_the_others() -> None:
    span = LateSpan(TRACEPARENT, sender_of)
    span.set_attribute("error.type", "bad")
    span.set_status(StatusCode.ERROR, "bad")
    assert (named(span.status), span.attributes) == (("ERROR", "bad"), {"error.type": "bad"})


def test_the_identity_of_an_unsampled_span_is_made_once_and_only_if_somebody_asks() -> None:
    made: list[SpanContext] = []

    def make(parent: SpanContext) -> SpanContext:
        made.append(parent)
        return SpanContext(parent.trace_id, len(made) + 100, is_remote=False)

    span = LateSpan(CONTEXT, make)
    span.set_status(StatusCode.ERROR)
    span.end()
    assert (made, named(span.status)) == ([], ("ERROR", None))
    assert [span.get_span_context().span_id for _ in range(3)] == [101] * 3
    assert made == [CONTEXT]


NO_SDK = """
import hopspan
from opentelemetry import baggage, trace
from hopspan.testing import Message, Queue

seen, queue = [], Queue()

@hopspan.consumer(policy=hopspan.reject_on_error)
def handler(message):
    span = trace.get_current_span()
    context = span.get_span_context()
    seen.append((hex(context.trace_id), hex(context.span_id), context.is_remote, span.is_recording()))
    seen.append((queue.publish().headers, baggage.get_baggage("tenant")))
    if message.body:
        span.set_status(trace.StatusCode.ERROR, "bad")

parent = f"00-{1:032x}-{2:016x}-01"
for body, headers in [
    ("", {"traceparent": parent}),
    ("fail", {"traceparent": parent.encode()}),
    ("", {"traceparent": parent, "baggage": "tenant=acme"}),
    ("", {"traceparent": "malformed"}),
    ("", {}),
]:
    message = Message(body, headers)
    handler(message)
    seen.append(message.verdict.value)
print(*seen, sep="\\n")
"""


def test_without_an_sdk_a_handler_goes_on_in_its_senders_trace() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_SDK], capture_output=True, text=True, timeout=60, check=True
    )
    sent = ("0x1", "0x2", True, False)
    nobody = ("0x0", "0x0", False, False)
    carried = {"traceparent": TRACEPARENT}
    expected = [
        sent, (carried, None), "ack",
        sent, (carried, None), "reject",
        sent, ({**carried, "baggage": "tenant=acme"}, "acme"), "ack",
        nobody, ({}, None), "ack",
        nobody, ({}, None), "ack",
    ]  # fmt: skip
    assert done.stdout.splitlines() == [str(each) for each in expected]
