"""Whatever is in the headers: the handler runs once, sees them as they came, all is settled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState
from pika.spec import Basic, BasicProperties

import hopspan
from hopspan import faults
from tests.property.hostile import ANYTHING, FIELDS, INT64, TEXT, VALUES, Hostile, hex_of, hostile

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Coverage and busy machines are slow; what is slow is not wrong."""
SAID = st.text(
    st.characters(codec="ascii", categories=["L", "N"]) | st.sampled_from("é☃%=,; "), max_size=20
).map(str.strip)
"""What baggage can say; OpenTelemetry strips it."""


class Channel:
    """What hopspan uses of a pika channel; remembers what was settled."""

    is_open = True
    connection = None

    def __init__(self) -> None:
        self.settled: list[tuple[Any, ...]] = []

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        self.settled.append(("ack", delivery_tag, multiple))

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        self.settled.append(("nack", delivery_tag, multiple, requeue))

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        self.settled.append(("reject", delivery_tag, requeue))

    def basic_recover(self, requeue: bool = False) -> None:
        self.settled.append(("recover", requeue))


class Handled:
    """One message handed to a decorated handler: what the handler saw, and what came of it."""

    def __init__(
        self,
        headers: dict[Any, Any],
        *,
        fails: bool = False,
        redelivered: bool = False,
        **properties: Any,
    ) -> None:
        self.seen: list[Any] = []
        self.attempts: list[int | None] = []
        exporter = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))

        @hopspan.consumer(policy=hopspan.requeue_once, tracer_provider=provider)
        def on_message(channel: Any, method: Any, properties: BasicProperties, body: bytes) -> None:
            self.seen.append(properties.headers)
            self.attempts.append(hopspan.current().delivery.attempt)
            if fails:
                raise ValueError(body)

        self.channel = Channel()
        method = Basic.Deliver("tag", 7, redelivered, "exchange", "key")
        on_message(self.channel, method, BasicProperties(headers=headers, **properties), b"body")
        self.spans: list[ReadableSpan] = list(exporter.get_finished_spans())

    @property
    def span(self) -> ReadableSpan:
        """The one process span."""
        (span,) = (span for span in self.spans if span.kind is SpanKind.CONSUMER)
        return span


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No header makes hopspan complain: it is the producer's doing, and may come often."""
    faults.forget()
    yield
    complaints = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name.startswith(("hopspan", "opentelemetry.sdk", "opentelemetry.attributes"))
        if record.levelno >= logging.WARNING
        and not record.getMessage().startswith("handler failed")
    ]
    assert complaints == []


@PATIENT
@given(hostile(), st.booleans(), st.booleans())
def test_the_handler_runs_once_and_sees_the_headers_as_they_came(
    message: Hostile, fails: bool, redelivered: bool
) -> None:
    before = repr(message.headers)
    handled = Handled(message.headers, fails=fails, redelivered=redelivered)
    assert len(handled.seen) == 1
    assert handled.seen[0] is message.headers
    assert repr(message.headers) == before


@PATIENT
@given(hostile(), st.booleans(), st.booleans())
def test_the_message_is_settled_once(message: Hostile, fails: bool, redelivered: bool) -> None:
    handled = Handled(message.headers, fails=fails, redelivered=redelivered)
    wanted = ("nack", 7, False, not redelivered) if fails else ("ack", 7, False)
    assert handled.channel.settled == [wanted]


@PATIENT
@given(hostile())
def test_a_malformed_traceparent_begins_a_new_trace_and_a_valid_one_is_joined(
    message: Hostile,
) -> None:
    span = Handled(message.headers).span
    found = span.parent and f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"
    assert found == (message.context and message.context[3:52])
    assert len(span.links) == (message.context is not None)


@PATIENT
@given(hostile(ANYTHING, ANYTHING))
def test_extraction_never_raises_and_never_changes_what_it_reads(message: Hostile) -> None:
    before = list(message.headers.items())
    found = trace.get_current_span(hopspan.extract(message.headers)).get_span_context()
    assert list(message.headers.items()) == before
    assert (f"{found.trace_id:032x}" if found.is_valid else None) == (
        message.context and message.context[3:35]
    )


@PATIENT
@given(st.lists(ANYTHING | st.tuples(st.sampled_from(FIELDS), ANYTHING)))
def test_extraction_from_pairs_never_raises(pairs: list[Any]) -> None:
    assert isinstance(hopspan.extract(pairs), Context)


@PATIENT
@given(st.dictionaries(st.binary(max_size=20) | st.integers() | st.none() | TEXT, VALUES))
def test_keys_that_are_no_text_are_left_alone(headers: dict[Any, Any]) -> None:
    handled = Handled(headers)
    assert handled.channel.settled == [("ack", 7, False)]
    injected = hopspan.inject(headers, carried())
    others = [(key, value) for key, value in headers.items() if not isinstance(key, str)]
    assert [(key, value) for key, value in injected.items() if not isinstance(key, str)] == others


@PATIENT
@given(
    st.sampled_from(["x-delivery-count", "x-acquired-count"]),
    VALUES | st.integers(*INT64),
    st.booleans(),
)
@example("x-delivery-count", 2**63 - 1, True)
def test_a_count_that_no_broker_can_have_written_is_not_believed(
    name: str, value: Any, redelivered: bool
) -> None:
    handled = Handled({name: value}, redelivered=redelivered)
    (attempt,) = handled.attempts
    assert (attempt == 1) == (not redelivered), "a broker counts from the first redelivery"
    assert attempt is None or attempt <= 2**31


@PATIENT
@given(st.sampled_from(["x-delivery-count", "x-acquired-count"]), VALUES | st.integers(-2, 9))
@example("x-delivery-count", 0)
def test_no_header_makes_a_failing_message_come_back_forever(name: str, value: Any) -> None:
    handled = Handled({name: value}, fails=True, redelivered=True)
    assert handled.channel.settled == [("nack", 7, False, False)]


@PATIENT
@given(hostile(ANYTHING, ANYTHING), SAID)
def test_injection_leaves_exactly_one_of_each_field(message: Hostile, value: str) -> None:
    before = list(message.headers.items())
    injected = hopspan.inject(message.headers, carried(value))
    names = [key.lower() for key in injected if isinstance(key, str)]
    assert [names.count(name) for name in FIELDS] == [1, 1, 1]
    assert list(message.headers.items()) == before
    others = [(key, kept) for key, kept in before if key.lower() not in FIELDS]
    assert [(key, kept) for key, kept in injected.items() if key not in FIELDS] == others


@PATIENT
@given(hostile(ANYTHING, ANYTHING), hex_of(32), hex_of(16), SAID)
def test_what_was_injected_is_extracted(
    message: Hostile, trace_id: str, span_id: str, value: str
) -> None:
    injected = hopspan.inject(message.headers, carried(value, trace_id, span_id))
    found = hopspan.extract(injected)
    span = trace.get_current_span(found).get_span_context()
    assert (f"{span.trace_id:032x}", f"{span.span_id:016x}") == (trace_id, span_id)
    assert dict(span.trace_state.items()) == {"vendor": "state"}
    assert baggage.get_all(found) == {"key": value}


@PATIENT
@given(
    st.lists(st.tuples(st.sampled_from([*FIELDS, "Traceparent", "BAGGAGE", "other"]), st.binary()))
)
def test_pairs_are_injected_into_once_as_well(pairs: list[tuple[str, bytes]]) -> None:
    injected = hopspan.inject(pairs, carried())
    names = [key.lower() for key, _ in injected]
    assert [names.count(name) for name in FIELDS] == [1, 1, 1]
    assert [pair for pair in injected if pair[0] == "other"] == [
        pair for pair in pairs if pair[0] == "other"
    ]
    assert baggage.get_all(hopspan.extract(injected)) == {"key": "value"}


@PATIENT
@given(st.binary(max_size=20), st.binary(max_size=20))
def test_properties_that_are_no_text_are_told_as_text(
    message_id: bytes, correlation_id: bytes
) -> None:
    handled = Handled({}, message_id=message_id, correlation_id=correlation_id)
    attributes = handled.span.attributes or {}
    assert isinstance(attributes["messaging.message.id"], str)
    assert isinstance(attributes["messaging.message.conversation_id"], str)
    assert handled.channel.settled == [("ack", 7, False)]


def carried(value: str = "value", trace_id: str = "1" * 32, span_id: str = "2" * 16) -> Context:
    """A context with all three fields."""
    state = TraceState([("vendor", "state")])
    span = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(1), state)
    carrying = trace.set_span_in_context(NonRecordingSpan(span), Context())
    return baggage.set_baggage("key", value, carrying)


def test_the_context_is_what_it_was_before() -> None:
    assert context.get_current() == Context()
