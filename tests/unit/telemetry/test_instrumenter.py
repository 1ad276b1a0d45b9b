"""Parents, links and attributes at the start of each kind of operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach, get_current, set_value
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import SpanKind, StatusCode

from hopspan import conventions as names
from hopspan.conventions import Action
from hopspan.model import (
    SUCCESS,
    Endpoint,
    MessageInfo,
    OperationType,
    Outcome,
    Outgoing,
    SettledMessage,
    Settlement,
    Verdict,
)
from hopspan.propagation import MAPPING
from hopspan.telemetry.enabled import Switch
from hopspan.telemetry.instrumenter import Instrumenter
from hopspan.telemetry.operation import Operation
from hopspan.telemetry.recording import record_settle, start_internal, start_receive, start_send
from tests.unit.support import Given, Seen, Telemetry, delivery, handle

PUBLISH = Action("publish", OperationType.SEND)
ORDERS = Endpoint("memory", "orders")
TRACE, SENDER = 0xA, 0xB
SENT = {"traceparent": f"00-{TRACE:032x}-{SENDER:016x}-01", "baggage": "tenant.id=acme"}
LATER = {"traceparent": f"00-{TRACE:032x}-{0xC:016x}-01"}

PROCESSED = {
    "messaging.system": "memory",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": "orders",
}


def outgoing(headers: Any = None, message: MessageInfo = MessageInfo()) -> Outgoing:  # noqa: B008
    return Outgoing(ORDERS, message, headers, lambda changed: ((changed,), {}))


@contextmanager
def current(context: Context) -> Iterator[None]:
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


@contextmanager
def ambient(telemetry: Telemetry) -> Iterator[int]:
    """A span of the user's own, current around the test; its id."""
    with telemetry.tracer.start_as_current_span("ambient") as span:
        yield span.get_span_context().span_id


def processed(
    telemetry: Telemetry,
    deliveries: Sequence[Given],
    *,
    pushed: bool = False,
    **settings: Any,
) -> tuple[Seen, Context]:
    """A process operation from start to end: its span, and the context that it had."""
    contexts: list[Context] = []
    handle(
        deliveries,
        lambda handled: contexts.append(handled.context),
        pushed=pushed,
        **{**telemetry.settings, **settings},
    )
    return next(span for span in telemetry.seen if span.name != "ambient"), contexts[0]


# -- sending ---------------------------------------------------------------------------------------


def test_a_send_is_a_producer_span_whose_context_leaves_with_the_message(
    telemetry: Telemetry,
) -> None:
    operation, headers = start_send(
        telemetry.instrumenter(),
        PUBLISH,
        outgoing({"color": "red"}, MessageInfo("m1", "c1", {"x": 1})),
        MAPPING,
    )
    operation.end()
    assert telemetry.only == Seen(
        "publish orders",
        SpanKind.PRODUCER,
        {
            "messaging.system": "memory",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": "orders",
            "messaging.message.id": "m1",
            "messaging.message.conversation_id": "c1",
            "x": 1,
        },
    )
    assert headers == {"color": "red", **propagated(operation.context)}


def test_a_send_on_a_route_is_described_by_it(telemetry: Telemetry) -> None:
    """What every message of a route says, its messages need not say."""
    route = names.Route(names.plan(PUBLISH, ORDERS), {"x": 1, "y": 1})
    message = MessageInfo("m1", "c1", {"y": 2})
    sent = Outgoing(route, message, None, lambda changed: ((changed,), {}))
    for fields in (sent, tuple(sent)):
        operation, _ = start_send(telemetry.instrumenter(), PUBLISH, fields, MAPPING)
        assert operation is not None
        assert (operation.endpoint, operation.action) == (ORDERS, PUBLISH)
        operation.end()
    first, second = telemetry.seen
    assert first == second
    assert first.attributes["messaging.message.id"] == "m1"
    assert (first.attributes["x"], first.attributes["y"]) == (1, 2)
    assert route.attributes["y"] == 1


def propagated(context: Context) -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return carrier


def test_a_send_is_a_child_of_what_is_current(telemetry: Telemetry) -> None:
    with ambient(telemetry) as span_id:
        operation, _ = start_send(telemetry.instrumenter(), PUBLISH, outgoing(), MAPPING)
        operation.end()
    assert telemetry.seen[0].parent == span_id


def test_a_context_that_the_message_brings_is_replaced(telemetry: Telemetry) -> None:
    operation, headers = start_send(telemetry.instrumenter(), PUBLISH, outgoing(SENT), MAPPING)
    operation.end()
    assert headers == propagated(operation.context)
    assert telemetry.only.links == ()


def test_a_context_that_is_kept_is_linked_to(telemetry: Telemetry) -> None:
    """The send span is then a client's, for another made the message (*Context propagation*)."""
    operation, headers = start_send(
        telemetry.instrumenter(keep_context=True), PUBLISH, outgoing(SENT), MAPPING
    )
    operation.end()
    assert (headers is not None, headers, telemetry.only.kind, telemetry.only.links) == (
        True,
        SENT,
        SpanKind.CLIENT,
        (SENDER,),
    )


def test_without_a_context_there_is_nothing_to_keep(telemetry: Telemetry) -> None:
    operation, headers = start_send(
        telemetry.instrumenter(keep_context=True), PUBLISH, outgoing({}), MAPPING
    )
    operation.end()
    assert (headers, telemetry.only.kind) == (propagated(operation.context), SpanKind.PRODUCER)


def test_a_suppressed_send_leaves_the_headers_alone(telemetry: Telemetry) -> None:
    headers = {"color": "red"}
    with current(set_value("suppress_instrumentation", True)):
        operation, carried = start_send(
            telemetry.instrumenter(), PUBLISH, outgoing(headers), MAPPING
        )
    assert (carried is headers, operation, telemetry.spans) == (True, None, [])


def test_a_suppressed_send_does_not_carry_what_is_current(telemetry: Telemetry) -> None:
    with ambient(telemetry), current(set_value("suppress_instrumentation", True)):
        _, carried = start_send(telemetry.instrumenter(), PUBLISH, outgoing(), MAPPING)
    assert carried is None


def test_an_unsampled_send_carries_its_context_all_the_same(unsampled: Telemetry) -> None:
    """The receiver must know that the trace is not sampled."""
    operation, headers = start_send(unsampled.instrumenter(), PUBLISH, outgoing(), MAPPING)
    assert headers == propagated(operation.context) != {}


def test_without_an_sdk_baggage_is_carried_all_the_same(telemetry: Telemetry) -> None:
    instrumenter = telemetry.instrumenter(tracer_provider=trace.NoOpTracerProvider())
    with current(baggage.set_baggage("tenant.id", "acme")):
        _, headers = start_send(instrumenter, PUBLISH, outgoing(), MAPPING)
    assert headers == {"baggage": "tenant.id=acme"}


def test_a_propagator_that_raises_lets_the_message_leave(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a propagator that cannot")

    monkeypatch.setattr("hopspan.telemetry.recording.inject_into", fail)
    headers = {"color": "red"}
    operation, carried = start_send(telemetry.instrumenter(), PUBLISH, outgoing(headers), MAPPING)
    operation.end()
    assert (carried is headers, len(telemetry.spans), len(logged.records)) == (True, 1, 1)


# -- receiving -------------------------------------------------------------------------------------

RECEIVED = {
    "messaging.system": "memory",
    "messaging.operation.name": "receive",
    "messaging.operation.type": "receive",
    "messaging.destination.name": "orders",
}


def received(telemetry: Telemetry, *deliveries: Given) -> None:
    operation = start_receive(
        telemetry.instrumenter(), names.RECEIVE, ORDERS, deliveries, MAPPING, 1_000
    )
    operation.end(messages=len(deliveries))


@pytest.mark.parametrize(
    ("deliveries", "attributes", "links"),
    [
        ([], {}, ()),
        ([delivery(SENT)], {}, (SENDER,)),
        (
            [delivery(SENT, attributes={"messaging.message.id": "m1", "x": 1})],
            {"messaging.message.id": "m1", "x": 1},
            (SENDER,),
        ),
        (
            [
                delivery(SENT, attributes={"messaging.message.id": "m1"}),
                delivery(LATER),
                delivery(),
            ],
            {"messaging.batch.message_count": 3},
            (SENDER, 0xC),
        ),
    ],
)
def test_a_receive_links_to_every_message(
    deliveries: list[Given],
    attributes: dict[str, Any],
    links: tuple[int, ...],
    telemetry: Telemetry,
) -> None:
    """One message is described by the span; of several, only their number."""
    received(telemetry, *deliveries)
    assert telemetry.only == Seen(
        "receive orders", SpanKind.CLIENT, {**RECEIVED, **attributes}, links=links
    )


def test_a_receive_is_a_child_of_what_is_current_never_of_a_message(telemetry: Telemetry) -> None:
    with ambient(telemetry) as span_id:
        received(telemetry, delivery(SENT))
    assert telemetry.seen[0].parent == span_id


def test_a_receive_began_when_the_call_did(telemetry: Telemetry) -> None:
    received(telemetry, delivery())
    assert telemetry.spans[0].start_time == 1_000


# -- processing: one message -----------------------------------------------------------------------

#          correlation, headers, pushed, ambient: parent, links
CORRELATION: list[tuple[str, Any, bool, bool, str | int | None, tuple[int, ...]]] = [
    ("auto", SENT, True, False, SENDER, (SENDER,)),
    ("auto", SENT, True, True, SENDER, (SENDER,)),
    ("auto", SENT, False, False, SENDER, (SENDER,)),
    ("auto", SENT, False, True, "ambient", (SENDER,)),
    ("auto", None, True, False, None, ()),
    ("auto", None, True, True, None, ()),
    ("auto", None, False, False, None, ()),
    ("auto", None, False, True, "ambient", ()),
    ("parent", SENT, True, False, SENDER, (SENDER,)),
    ("parent", SENT, False, True, SENDER, (SENDER,)),
    ("parent", None, False, True, "ambient", ()),
    ("link", SENT, True, False, None, (SENDER,)),
    ("link", SENT, False, True, None, (SENDER,)),
    ("link", None, False, True, None, ()),
    ("none", SENT, True, False, None, ()),
    ("none", SENT, False, True, "ambient", ()),
    ("none", None, False, False, None, ()),
]


@pytest.mark.parametrize(
    ("correlation", "headers", "pushed", "around", "parent", "links"), CORRELATION
)
def test_correlation(
    correlation: str,
    headers: Any,
    pushed: bool,
    around: bool,
    parent: str | int | None,
    links: tuple[int, ...],
    telemetry: Telemetry,
) -> None:
    """What is current at a push is an accident; where the code owns the loop it is the parent."""
    span_id = None
    if around:
        with ambient(telemetry) as span_id:
            span, _ = processed(
                telemetry, [delivery(headers)], pushed=pushed, correlation=correlation
            )
    else:
        span, _ = processed(telemetry, [delivery(headers)], pushed=pushed, correlation=correlation)
    assert (span.parent, span.links) == (span_id if parent == "ambient" else parent, links)


@pytest.mark.parametrize(
    ("correlation", "tenant"),
    [("auto", "acme"), ("parent", "acme"), ("link", "acme"), ("none", None)],
)
def test_the_messages_baggage_reaches_the_handler(
    correlation: str, tenant: str | None, telemetry: Telemetry
) -> None:
    _, context = processed(telemetry, [delivery(SENT)], correlation=correlation)
    assert baggage.get_baggage("tenant.id", context) == tenant


@pytest.mark.parametrize(("pushed", "colour"), [(True, None), (False, "red")])
def test_a_push_starts_from_an_empty_context(
    pushed: bool, colour: str | None, telemetry: Telemetry
) -> None:
    """What the channel's opener had in their context is not the message's."""
    with current(baggage.set_baggage("colour", "red")):
        _, context = processed(telemetry, [delivery(SENT)], pushed=pushed)
    assert baggage.get_baggage("colour", context) == colour


def test_a_process_span_describes_its_delivery(telemetry: Telemetry) -> None:
    attributes = {"messaging.message.id": "m1", "hopspan.redelivered": True, "x": 1}
    span, _ = processed(telemetry, [delivery(attributes=attributes)])
    assert span == Seen("process orders", attributes={**PROCESSED, **attributes})


def test_a_message_that_says_nothing_of_its_own_is_described_by_its_route(
    telemetry: Telemetry,
) -> None:
    span, _ = processed(telemetry, [delivery()])
    assert span == Seen("process orders", attributes=PROCESSED)


# -- processing: a batch ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correlation", "around", "parent", "links"),
    [
        ("auto", False, None, (SENDER, 0xC)),
        ("auto", True, "ambient", (SENDER, 0xC)),
        ("parent", False, None, (SENDER, 0xC)),
        ("parent", True, "ambient", (SENDER, 0xC)),
        ("link", False, None, (SENDER, 0xC)),
        ("link", True, None, (SENDER, 0xC)),
        ("none", False, None, ()),
        ("none", True, "ambient", ()),
    ],
)
def test_a_batch_is_linked_and_never_parented_by_a_message(
    correlation: str,
    around: bool,
    parent: str | None,
    links: tuple[int, ...],
    telemetry: Telemetry,
) -> None:
    deliveries = [delivery(SENT), delivery(LATER)]
    span_id = None
    if around:
        with ambient(telemetry) as span_id:
            span, _ = processed(telemetry, deliveries, correlation=correlation)
    else:
        span, _ = processed(telemetry, deliveries, correlation=correlation)
    assert span == Seen(
        "process orders",
        attributes={**PROCESSED, "messaging.batch.message_count": 2},
        parent=span_id if parent else None,
        links=links,
    )


def test_a_batch_has_no_baggage_of_a_message(telemetry: Telemetry) -> None:
    """Whose would it be?"""
    _, context = processed(telemetry, [delivery(SENT), delivery(SENT)])
    assert baggage.get_baggage("tenant.id", context) is None


def test_a_batch_of_several_destinations_names_none(telemetry: Telemetry) -> None:
    elsewhere = Endpoint("memory", "returns", "t", True, True, "group", "broker", 1)
    span, _ = processed(telemetry, [delivery(), delivery(endpoint=elsewhere)])
    assert span == Seen(
        "process",
        attributes={
            "messaging.system": "memory",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.batch.message_count": 2,
        },
    )


def test_what_several_destinations_have_in_common_stays(telemetry: Telemetry) -> None:
    one = Endpoint("memory", "a", "t", True, True, "group", "broker", 1)
    span, _ = processed(
        telemetry, [delivery(endpoint=one), delivery(endpoint=one._replace(destination="b"))]
    )
    assert span == Seen(
        "process",
        attributes={
            "messaging.system": "memory",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "group",
            "server.address": "broker",
            "server.port": 1,
            "messaging.batch.message_count": 2,
        },
    )


# -- suppression, switching off, and what is not recorded ------------------------------------------


def test_a_suppressed_process_remembers_its_status(telemetry: Telemetry) -> None:
    message = delivery(SENT)
    with current(set_value("suppress_instrumentation", True)):
        handle([message], fail_by_status, pushed=True, **telemetry.settings)
    assert (message.outcome, telemetry.spans) == (FAILED_BY_STATUS, [])


def test_a_suppressed_process_stays_in_the_suppressed_context() -> None:
    """What the handler does must be as silent as the message."""
    seen: list[Any] = []
    with current(set_value("suppress_instrumentation", True)):
        handle([delivery(SENT)], lambda _: seen.append(get_current()), pushed=True)
    assert seen[0].get("suppress_instrumentation") is True


def test_a_switch_turns_off_all_that_it_was_given_to(telemetry: Telemetry) -> None:
    switch = Switch()
    instrumenter = Instrumenter(telemetry.config(), switch)
    derived = instrumenter.with_settings({"reraise": True})
    switch.on = False
    for each in (instrumenter, derived):
        assert start_send(each, PUBLISH, outgoing(), MAPPING) == (None, None)
    assert telemetry.spans == []


def test_settings_make_another_instrumenter(telemetry: Telemetry) -> None:
    instrumenter = telemetry.instrumenter()
    assert instrumenter.with_settings({"reraise": True}).config == telemetry.config(reraise=True)


def test_no_settings_leave_it_as_it_is(telemetry: Telemetry) -> None:
    instrumenter = telemetry.instrumenter()
    assert instrumenter.with_settings({}) is instrumenter


def test_an_unsampled_span_has_its_own_identity(unsampled: Telemetry) -> None:
    """A child that is sampled after all, or in another service, must find its parent."""
    message = delivery(SENT)
    handle([message], **unsampled.settings)
    context = message.span.get_span_context()
    assert (context.trace_id, context.span_id != SENDER, context.is_valid) == (TRACE, True, True)


class Recalling(Sampler):
    """Takes note of what it may decide upon."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, SpanKind | None, dict[str, Any], int]] = []

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        self.asked.append((name, kind, dict(attributes or {}), len(links or ())))
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "recalling"


def test_a_sampler_sees_name_kind_attributes_and_links() -> None:
    sampler = Recalling()
    handle([delivery(SENT, attributes={"x": 1})], **Telemetry(sampler).settings)
    assert sampler.asked == [("process orders", SpanKind.CONSUMER, {**PROCESSED, "x": 1}, 1)]


FAILED_BY_STATUS = Outcome(failed=True, error_type="_OTHER", description="bad")


def fail_by_status(_handled: Any) -> None:
    trace.get_current_span().set_status(StatusCode.ERROR, "bad")


# -- settling --------------------------------------------------------------------------------------

FAILED = Outcome(failed=True, error_type="precondition-failed", description="too late")


@pytest.mark.parametrize(
    ("wanted", "verdict", "outcome", "spans"),
    [
        ("notable", Verdict.ACK, SUCCESS, 0),
        ("notable", Verdict.REQUEUE, SUCCESS, 1),
        ("notable", Verdict.REJECT, SUCCESS, 1),
        ("notable", Verdict.ACK, FAILED, 1),
        ("all", Verdict.ACK, SUCCESS, 1),
        ("all", Verdict.REJECT, FAILED, 1),
        ("none", Verdict.REJECT, SUCCESS, 0),
        ("none", Verdict.ACK, FAILED, 0),
    ],
)
def test_which_settlements_have_a_span_and_a_duration(
    wanted: str, verdict: Verdict, outcome: Outcome, spans: int, telemetry: Telemetry
) -> None:
    record_settle(
        telemetry.instrumenter(settle_spans=wanted),
        "settle",
        Settlement(verdict),
        [delivery().described()],
        outcome,
        (1_000, 0.5),
    )
    points = telemetry.points("messaging.client.operation.duration")
    assert (len(telemetry.spans), sum(value for _, value in points)) == (spans, spans)


def described(deliveries: Sequence[Given]) -> list[SettledMessage]:
    return [each.described() for each in deliveries]


SETTLED = {
    "messaging.system": "memory",
    "messaging.operation.name": "nack",
    "messaging.operation.type": "settle",
    "messaging.destination.name": "orders",
    "hopspan.settlement": "reject",
    "hopspan.settlement.reason": "failed",
}


def settle(telemetry: Telemetry, *deliveries: Given, **where: Any) -> Seen:
    outcome = where.pop("outcome", SUCCESS)
    record_settle(
        telemetry.instrumenter(),
        "nack",
        Settlement(Verdict.REJECT, "failed"),
        described(deliveries),
        outcome,
        (1_000, 0.5),
        **where,
    )
    return next(span for span in telemetry.seen if span.name.startswith("nack"))


def test_a_settle_span_describes_its_message(telemetry: Telemetry) -> None:
    assert settle(telemetry, delivery(attributes={"messaging.message.id": "m1"})) == Seen(
        "nack orders", SpanKind.CLIENT, {**SETTLED, "messaging.message.id": "m1"}
    )


def test_a_settle_span_of_several_tells_their_number(telemetry: Telemetry) -> None:
    assert settle(telemetry, delivery(), delivery()) == Seen(
        "nack orders", SpanKind.CLIENT, {**SETTLED, "messaging.batch.message_count": 2}
    )


def test_a_settlement_that_failed_says_so(telemetry: Telemetry) -> None:
    assert settle(telemetry, delivery(), outcome=FAILED) == Seen(
        "nack orders",
        SpanKind.CLIENT,
        {**SETTLED, "error.type": "precondition-failed"},
        status=("ERROR", "too late"),
    )


def test_a_settlement_is_timed_as_told(telemetry: Telemetry) -> None:
    settle(telemetry, delivery())
    (point,) = telemetry.metric("messaging.client.operation.duration").data.data_points
    assert (telemetry.spans[0].start_time, point.sum) == (1_000, 0.5)


def test_a_settlement_counts_no_messages(telemetry: Telemetry) -> None:
    settle(telemetry, delivery())
    assert telemetry.points("messaging.client.consumed.messages") == []


def test_a_settlement_is_inside_the_process_span_that_it_is_given(telemetry: Telemetry) -> None:
    with ambient(telemetry) as span_id:
        inside = get_current()
    assert settle(telemetry, delivery(), inside=inside).parent == span_id


def test_a_settlement_is_inside_what_is_current_otherwise(telemetry: Telemetry) -> None:
    with ambient(telemetry) as span_id:
        span = settle(telemetry, delivery())
    assert span.parent == span_id


def test_a_settlement_links_to_process_spans_that_are_over(telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("over") as over:
        context = over.get_span_context()
    span = settle(telemetry, delivery(), of=[trace.INVALID_SPAN_CONTEXT, context])
    assert span.links == (context.span_id,)


def test_a_settlement_tells_the_hooks(telemetry: Telemetry) -> None:
    names: list[str] = []

    def on_start(operation: Operation, native: Any) -> None:
        assert operation.action is not None
        names.append(operation.action.name)

    record_settle(
        telemetry.instrumenter(on_start=on_start),
        "nack",
        Settlement(Verdict.REJECT),
        described([delivery()]),
        SUCCESS,
        (1_000, 0.5),
    )
    assert names == ["nack"]


# -- hostile ---------------------------------------------------------------------------------------


class Unwilling(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        raise RuntimeError("a sampler that cannot")

    def get_description(self) -> str:
        return "unwilling"


class Raising(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise RuntimeError("a processor that cannot")


def unwilling() -> Telemetry:
    return Telemetry(Unwilling())


def raising() -> Telemetry:
    telemetry = Telemetry()
    telemetry.tracer_provider.add_span_processor(Raising())
    return telemetry


@pytest.mark.parametrize("hostile", [unwilling, raising])
def test_a_process_that_cannot_be_started_is_silent_and_logged_once(
    hostile: Callable[[], Telemetry], logged: pytest.LogCaptureFixture
) -> None:
    """It goes on in the sender's trace, and its status decides as ever."""
    settings = hostile().settings
    for _ in range(2):
        message = delivery(SENT)
        handle([message], fail_by_status, pushed=True, **settings)
    assert message.outcome == FAILED_BY_STATUS
    assert message.span.get_span_context().span_id == SENDER
    assert [record.message for record in logged.records] == [
        "hopspan failed at starting a process span (RuntimeError); the message went on without it. "
        "Further failures of this kind are silent"
    ]


@pytest.mark.parametrize("hostile", [unwilling, raising])
def test_a_send_that_cannot_be_started_leaves_the_headers_alone(
    hostile: Callable[[], Telemetry], logged: pytest.LogCaptureFixture
) -> None:
    headers = {"color": "red"}
    _, carried = start_send(hostile().instrumenter(), PUBLISH, outgoing(headers), MAPPING)
    assert (carried is headers, len(logged.records)) == (True, 1)


def test_a_delivery_that_cannot_be_described_is_silent(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    message = delivery(attributes=3)
    handle([message], fail_by_status, **telemetry.settings)
    assert (message.outcome, telemetry.spans, len(logged.records)) == (FAILED_BY_STATUS, [], 1)


def test_a_hook_that_raises_is_logged_once_for_each(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    def fail(operation: object, native: object) -> None:
        raise RuntimeError("a hook that cannot")

    for _ in range(2):
        handle([delivery()], on_start=fail, on_end=fail, **telemetry.settings)
    assert len(telemetry.spans) == 2
    assert [record.message.partition(";")[0] for record in logged.records] == [
        "hopspan failed at calling the on_start hook (RuntimeError)",
        "hopspan failed at calling the on_end hook (RuntimeError)",
    ]


# -- an adapter's own ------------------------------------------------------------------------------


def test_an_operation_of_an_adapters_own_has_the_parent_and_the_links_that_it_is_told(
    telemetry: Telemetry,
) -> None:
    parent = propagate.extract(SENT)
    operation = start_internal(
        telemetry.instrumenter(),
        "lost",
        ORDERS,
        {"x": 1},
        parent=parent,
        of=[trace.SpanContext(TRACE, 0xC, is_remote=True)],
    )
    operation.end()
    assert (telemetry.only.parent, telemetry.only.links) == (SENDER, (0xC,))
    assert telemetry.only.attributes["x"] == 1
    assert baggage.get_all(operation.context) == baggage.get_all(parent)


# -- baggage, trust, ignored destinations, captured headers ----------------------------------------

MINE = {"tenant": "acme", "app.region": "eu", "secret": "s", "messaging.system": "evil"}


def with_baggage(**entries: str) -> Context:
    context = get_current()
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)
    return context


class Watching(Sampler):
    """Keeps what it is told at the start of each span."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def should_sample(
        self, parent_context: Any, trace_id: Any, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        given = kwargs.get("attributes") or next(each for each in args if isinstance(each, dict))
        self.told.append((name, dict(given)))
        return SamplingResult(Decision.RECORD_AND_SAMPLE, given)

    def get_description(self) -> str:
        return "Watching"


class Untold:
    """A value that cannot be told."""

    def __str__(self) -> str:
        raise ValueError("no")


def test_an_entry_that_cannot_be_told_costs_neither_span_nor_context(
    telemetry: Telemetry, logged: pytest.LogCaptureFixture
) -> None:
    instrumenter = telemetry.instrumenter(baggage_attributes=("tenant",))
    message = delivery(SENT)
    with current(baggage.set_baggage("tenant", Untold(), Context())):
        sent, headers = start_send(instrumenter, PUBLISH, outgoing(), MAPPING)
        handle([message], baggage_attributes=("tenant",), **telemetry.settings)
    assert headers["traceparent"][3:35] == f"{sent.span.get_span_context().trace_id:032x}"
    assert message.span.get_span_context().trace_id == TRACE
    assert [each.levelname for each in logged.records] == ["ERROR", "WARNING"]  # it does not leave


def test_a_sampler_sees_chosen_entries_and_headers_and_none_of_them_wins_over_ours() -> None:
    sampler = Watching()
    telemetry = Telemetry(sampler)
    settings: dict[str, Any] = {
        "baggage_attributes": ("tenant", "messaging.*"),
        "capture_headers": ("color",),
    }
    instrumenter = telemetry.instrumenter(**settings)
    sent = outgoing({"Color": "red"})
    with current(with_baggage(**MINE)):
        start_send(instrumenter, PUBLISH, sent, MAPPING)
        headers = {"color": "red", "baggage": "tenant=acme,secret=s"}
        handle([delivery(headers)], pushed=True, **telemetry.settings, **settings)
        start_receive(instrumenter, names.RECEIVE, ORDERS, [delivery(headers)], MAPPING, 1)
    chosen = [
        (name, {key: value for key, value in told.items() if not key.startswith("messaging.o")})
        for name, told in sampler.told
    ]
    expected = {
        "tenant": "acme",
        "messaging.system": "memory",
        "messaging.destination.name": "orders",
        "messaging.header.color": ["red"],
    }
    assert chosen == [
        ("publish orders", expected),
        ("process orders", expected),
        ("receive orders", expected),
    ]


def test_a_settlement_says_nothing_of_baggage(telemetry: Telemetry) -> None:
    instrumenter = telemetry.instrumenter(baggage_attributes=("*",), capture_headers=("color",))
    with current(with_baggage(tenant="acme")):
        record_settle(
            instrumenter,
            "nack",
            Settlement(Verdict.REJECT),
            described([delivery({"color": "red"})]),
            SUCCESS,
            (1, 0.1),
        )
    assert {"tenant", "messaging.header.color"}.isdisjoint(telemetry.only.attributes)


def test_a_batch_says_nothing_of_any_messages_baggage_or_headers(telemetry: Telemetry) -> None:
    deliveries = [delivery({"baggage": "tenant=acme", "color": "red"})] * 2
    settings: dict[str, Any] = {
        "baggage_attributes": ("*",),
        "capture_headers": ("color",),
        "baggage_metrics": ("tenant",),
    }
    instrumenter = telemetry.instrumenter(**settings)
    with current(with_baggage(whose="mine")):
        handle(deliveries, **telemetry.settings, **settings)
        start_receive(instrumenter, names.RECEIVE, ORDERS, deliveries, MAPPING, 1).end()
    for seen in telemetry.seen:
        assert seen.attributes["whose"] == "mine"
        assert {"tenant", "messaging.header.color"}.isdisjoint(seen.attributes)


@pytest.mark.parametrize("theirs", ["01", "00"])
def test_it_is_not_for_a_stranger_to_say_what_is_sampled(theirs: str) -> None:
    """Not even that it is not."""
    for mine in (ALWAYS_OFF, ALWAYS_ON):
        telemetry = Telemetry(ParentBased(mine))
        headers = {**SENT, "traceparent": SENT["traceparent"][:-2] + theirs}
        message = delivery(headers)
        handle([message], pushed=True, trust=False, **telemetry.settings)
        assert message.span.get_span_context().trace_flags.sampled is (mine is ALWAYS_ON)
        assert len(telemetry.spans) == (mine is ALWAYS_ON)


def test_a_stranger_is_linked_to_by_ids_alone(telemetry: Telemetry) -> None:
    headers = {**SENT, "tracestate": "theirs=1"}
    instrumenter = telemetry.instrumenter(trust=False, baggage_attributes=("*",))
    for number in (1, 2):
        messages = [delivery(headers) for _ in range(number)]
        handle(messages, pushed=True, trust=False, **telemetry.settings)
        start_receive(
            instrumenter, names.RECEIVE, ORDERS, [delivery(headers)] * number, MAPPING, 1
        ).end()
    links = [link.context for span in telemetry.spans for link in span.links]
    assert links == [trace.SpanContext(TRACE, SENDER, is_remote=True)] * 6
    assert [link.trace_state for link in links] == [trace.TraceState()] * 6
    assert all("tenant.id" not in each.attributes for each in telemetry.seen)


def test_a_strangers_malformed_baggage_fills_no_log(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {**SENT, "baggage": "bad entry,another bad one"}
    handle([delivery(headers)], pushed=True, trust=False, **telemetry.settings)
    assert [] == caplog.records


def test_without_an_sdk_a_stranger_is_not_passed_on() -> None:
    contexts: list[Context] = []
    handle([delivery(SENT)], lambda _: contexts.append(get_current()), pushed=True, trust=False)
    assert trace.get_current_span(contexts[0]).get_span_context().trace_id != TRACE
    assert baggage.get_all(contexts[0]) == {}


@pytest.mark.parametrize("pushed", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_an_ignored_delivery_is_silent_in_the_context_that_is_there(
    size: int, pushed: bool, telemetry: Telemetry
) -> None:
    messages = [delivery(SENT) for _ in range(size)]

    def handler(handled: Any) -> Any:
        fail_by_status(handled)
        return handled, trace.get_current_span().get_span_context().span_id

    with ambient(telemetry) as span_id:
        handled, here = handle(
            messages, handler, pushed=pushed, ignore=("order*",), **telemetry.settings
        )
    assert (here, handled.outcome) == (span_id, FAILED_BY_STATUS)
    assert [span.name for span in telemetry.spans] == ["ambient"]
    assert telemetry.metric("messaging.process.duration") is None


def test_an_ignored_destination_is_sent_to_untouched(telemetry: Telemetry) -> None:
    headers = {"color": "red"}
    instrumenter = telemetry.instrumenter(ignore=("orders",))
    operation, carrying = start_send(instrumenter, PUBLISH, outgoing(headers), MAPPING)
    assert (operation, telemetry.spans) == (None, [])
    assert carrying is headers


def test_of_several_messages_only_those_that_are_not_ignored_are_told(
    telemetry: Telemetry,
) -> None:
    health = delivery(endpoint=Endpoint("memory", "health.ping"))
    orders = delivery()
    instrumenter = telemetry.instrumenter(ignore=("health.*",))
    assert instrumenter.not_ignored([health, orders, health]) == [orders]
    assert instrumenter.not_ignored([health]) == []
    assert telemetry.instrumenter().not_ignored([health]) == [health]


def test_a_commit_for_ignored_destinations_alone_is_not_recorded(telemetry: Telemetry) -> None:
    """Its own endpoint may have no destination, where there are several."""
    ping, pong = (delivery(endpoint=Endpoint("memory", f"health.{each}")) for each in "12")
    instrumenter = telemetry.instrumenter(ignore=("health.*",))
    for covered in ([ping, pong], [ping, delivery()]):
        record_settle(
            instrumenter,
            "commit",
            Settlement(Verdict.ACK),
            covered,
            SUCCESS,
            (1, 0.1),
            endpoint=Endpoint("memory"),
            always=True,
        )
    assert [span.name for span in telemetry.seen] == ["commit"]


def test_an_allowed_list_holds_though_the_context_keeps_all(telemetry: Telemetry) -> None:
    instrumenter = telemetry.instrumenter(baggage_allow=("app.*",))
    with current(with_baggage(**MINE)):
        operation, headers = start_send(
            instrumenter, PUBLISH, outgoing({"Baggage": "old=yes"}), MAPPING
        )
    assert headers["baggage"] == "app.region=eu"
    assert list(headers) == ["traceparent", "baggage"]
    assert baggage.get_all(operation.context) == MINE
