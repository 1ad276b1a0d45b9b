"""Never in the way: hostile headers, suppression, our own faults; what is the user's stays so."""

from __future__ import annotations

import functools
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from importlib import import_module
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import pytest
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult

import hopspan
from hopspan.adapters import adapter_named
from tests.contract.client import DEADLINE, Client, Message, Ran, raises, succeeds
from tests.contract.suite import FACES, SAMPLINGS, needs, over
from tests.contract.telemetry import Span, silence

# -- headers that no honest sender writes ----------------------------------------------------------

VALID = f"00-{'a' * 32}-{'b' * 16}-01"
TEXTS: tuple[Any, ...] = (
    "",
    " ",
    "-" * 55,
    "=,=,;=;,%",
    "%zz%e2%28%a1=%",
    "\0" * 16,
    "☃" * 55,
    "k" * 50_000,
    "k=v," * 10_000,
    VALID[:-1],
    VALID.replace("a", "0"),
    VALID.replace("b", "0"),
    VALID.replace("a", "g"),
    VALID.replace("-", "_"),
    f"ff{VALID[2:]}",
    f"{VALID}-more",
)
TYPED: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**62,
    Decimal("1.5"),
    b"\xff\xfe\x00",
    datetime(2026, 11, 22, 12, tzinfo=timezone.utc),
    [],
    [VALID, None, [1]],
    {},
    {"traceparent": VALID, "deep": {"deeper": [b"\xff"]}},
)
BYTES: tuple[Any, ...] = (None, b"\xff\xfe\x00", b"\xc3" * 55)
"""Values of headers that hold bytes or nothing."""
DEATHS: tuple[Any, ...] = (
    [None],
    ["reason"],
    [[]],
    [{}],
    [{"reason": 1, "queue": None, "count": "many"}],
    [{"reason": ["rejected"], "queue": b"\xff", "count": True}],
)
"""Almost what a broker writes."""
OTHERS = ("tracestate", "baggage", "x-death", "x-delivery-count", "x-acquired-count", "color")


def _hostile(client: Client) -> tuple[Any, ...]:
    return (*TEXTS, *TYPED, *DEATHS) if client.features.typed_headers else (*TEXTS, *BYTES)


def _send_hostile(client: Client, header: str, **more: Any) -> list[dict[str, Any]]:
    """One message for each hostile value; returns their headers."""
    sent = [{"size": "7", **more, header: value} for value in _hostile(client)]
    for headers in sent:
        client.send_untraced(headers=headers)
    return sent


def _said_by_hopspan(client: Client) -> list[str]:
    """OpenTelemetry warns of malformed baggage by itself."""
    own = [each for each in client.lines.records if each.name.startswith("hopspan")]
    client.lines.records = own
    return client.lines.take()


@over(header=("traceparent", *OTHERS), face=FACES)
@needs("settles")
def a_malformed_header_begins_a_new_trace_and_hinders_nothing(client: Client, header: str) -> None:
    sent = _send_hostile(client, header)
    ran = client.handle(succeeds, runs=len(sent), prefetch=len(sent), policy=client.reject_on_error)
    assert sent == [message.headers for message in ran.messages]
    assert ["ack"] * len(sent) == client.settlements()
    process = client.a_process(parent=None, links=(), settlement="ack")
    client.expect_spans(*(process._replace(trace=number) for number in range(len(sent))))
    assert [] == _said_by_hopspan(client)


@over(header=OTHERS, face=FACES)
@needs("settles")
def next_to_a_malformed_header_the_trace_is_joined(client: Client, header: str) -> None:
    sent = _send_hostile(client, header, traceparent=VALID)
    ran = client.handle(succeeds, runs=len(sent), prefetch=len(sent), policy=client.reject_on_error)
    assert sent == [message.headers for message in ran.messages]
    assert ["ack"] * len(sent) == client.settlements()
    process = client.a_process(parent="elsewhere", links=("elsewhere",), settlement="ack")
    client.expect_spans(*[process] * len(sent))
    assert [] == _said_by_hopspan(client)


NASTY: dict[str, Any] = {
    "traceparent": "00-nonsense",
    "tracestate": "=" * 600,
    "baggage": "%,=;☃",
    "x-death": "soon",
    "x-delivery-count": "often",
    "color": "red",
}


@over(style="styles", face=("wrapped", "instrumented"), sampling=SAMPLINGS)
def malformed_headers_hinder_no_style(client: Client, style: str) -> None:
    seen: list[Any] = []
    client.send_untraced(headers=NASTY)
    client.consume_by(style, lambda message: seen.append((message.body, message.headers)))
    assert [(b"order", NASTY)] == seen
    if client.telemetry.records:
        assert client.a_process(parent=None, links=()) == client.telemetry.spans()[-1]._replace(
            trace=0
        )
    assert [] == _said_by_hopspan(client)


@over(face=FACES, sampling=SAMPLINGS)
@needs("settles", "dead_letters")
def a_failing_handlers_message_is_rejected_whatever_its_headers(client: Client) -> None:
    client.send_untraced(headers=NASTY)
    ran = client.handle(raises(ValueError("no stock")), policy=client.reject_on_error)
    assert 1 == ran.times
    assert ["reject"] == client.settlements()
    client.expect_queues(dead=1)
    assert [] == _said_by_hopspan(client)


@over(face=("wrapped", "instrumented"))
@needs("typed_headers")
def a_sender_may_give_headers_of_any_kind(client: Client) -> None:
    fields = {"traceparent": 7, "TraceState": ["x"], "BAGGAGE": None}
    given = {**fields, "color": "red", "nested": {"traceparent": VALID}}
    client.send(b"order", client.carrier(given))
    arrived = client.take_untraced()
    assert isinstance(arrived.pop("traceparent"), str)
    assert {"color": "red", "nested": {"traceparent": VALID}} == arrived


# -- suppression -----------------------------------------------------------------------------------

PLAIN = "suppress_instrumentation"
KEYS = {"plain": PLAIN, "unique": getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", PLAIN)}
"""The two keys under which instrumentations are asked to be silent."""


@over(key=KEYS, face=("wrapped", "instrumented"))
def a_suppressed_publish_has_no_span_and_its_message_is_as_it_was_given(
    client: Client, key: str
) -> None:
    with client.span("order"), client.baggage(tenant="acme"), silence(KEYS[key]):
        client.send(b"order", client.carrier({"color": "red", "traceparent": VALID}))
    assert {"color": "red", "traceparent": VALID} == client.take_untraced()
    client.expect_spans(Span("order"))


@over(key=KEYS, face=FACES, sampling=SAMPLINGS)
@needs("settles")
def a_suppressed_handler_is_settled_by_its_policy_and_finds_its_delivery(
    client: Client, key: str
) -> None:
    found: list[Any] = []

    def handler(message: Message) -> None:
        operation = hopspan.current()
        found.append((bool(operation), client.fields(operation.delivery.headers)["color"]))
        with client.span("work"):
            assert operation is hopspan.current()
        if message.body == b"2":
            operation.fail("no stock")

    for body in (b"1", b"2"):
        client.send_untraced(body, headers={"color": "red"})
    ran = client.subscribe(handler, policy=client.reject_on_error)
    with silence(KEYS[key]):
        client.drive(lambda: ran.times == 2, ran)
        client.sync()
    assert [(True, "red")] * 2 == found
    assert ["ack", "reject"] == client.settlements()
    client.expect_spans(Span("work"), Span("work", trace=1))


@over(key=KEYS, face=("wrapped", "instrumented"))
@needs("settles")
def a_suppressed_get_and_block_have_no_spans_and_settle(client: Client, key: str) -> None:
    client.send_untraced()
    if client.face == "wrapped":
        client.wrap_consumer()
    with silence(KEYS[key]):
        message = client.fetch()
        with client.block(message, policy=client.reject_on_error) as operation:
            assert operation is hopspan.current()
            operation.fail("no stock")
    assert ["reject"] == client.settlements()
    client.expect_spans()


@over(key=KEYS, style="loops")
def a_suppressed_loop_has_no_spans_and_each_turn_finds_its_delivery(
    client: Client, key: str, style: str
) -> None:
    client.send_untraced()
    with silence(KEYS[key]):
        for item in client.loop(style):
            assert hopspan.current()
            assert client.message(item).body == client.body(hopspan.current().delivery.native)
            break
        del item
        assert not hopspan.current()
    client.expect_spans()


@over(key=KEYS, face=FACES)
def what_is_suppressed_inside_of_a_handler_does_not_suppress_the_handler(
    client: Client, key: str
) -> None:
    def forward(message: Message) -> None:
        with silence(KEYS[key]):
            client.send(b"forwarded", client.carrier(message.headers))

    client.send_untraced(headers={"traceparent": VALID})
    client.handle(forward)  # unsettled, it is the only one that the consumer gets
    client.expect_spans(client.a_process(parent="elsewhere", links=("elsewhere",)))
    assert VALID == client.take_untraced()["traceparent"]


# -- our own faults --------------------------------------------------------------------------------


class BoomError(Exception):
    """A fault of hopspan's own."""


def _boom(*_: Any, **__: Any) -> NoReturn:
    raise BoomError("hopspan's own fault")


@contextmanager
def _broken(client: Client, place: str) -> Iterator[None]:
    """Something of hopspan's own fails, whenever it is called."""
    path, _, name = place.rpartition(".")
    if path == "adapter":
        owner: Any = adapter_named(client.NAME).delivery
    else:
        module, _, kind = path.partition(":")
        owner = import_module(f"hopspan.{module}")
        owner = getattr(owner, kind) if kind else owner
    is_property = isinstance(inspect.getattr_static(owner, name), property)
    with mock.patch.object(owner, name, property(_boom) if is_property else _boom):
        yield


def _line(doing: str, kind: str = "BoomError") -> str:
    return (
        f"hopspan failed at {doing} ({kind}); the message went on without it. "
        "Further failures of this kind are silent"
    )


class Fault(NamedTuple):
    """What comes of it when something of ours fails."""

    doing: tuple[str, ...]
    """What hopspan says that it was about."""
    settled: bool = True
    swallowed: bool = True
    """Whether hopspan still knows that a failure was dealt with."""
    faces: tuple[str, ...] = FACES


BEGIN, END = "beginning to handle a delivery", "recording how an operation ended"
START = "starting a process span"
SETTLE, CLOSE = "recording a settlement", "ending the handling of a delivery"
MEASURE = "measuring an operation"
NOT_HANDLED = Fault((BEGIN,), settled=False, swallowed=False)
HANDLING = {
    "adapter.read": Fault(("reading a delivery",)),
    "adapter.opened": Fault(("opening a delivery",)),
    "adapter.closed": Fault(("closing a delivery",)),
    "adapter.is_here": Fault(("looking for the client's thread",)),
    "adapter.source": Fault(
        ("looking for the settings of a wrapped object",), faces=("decorated",)
    ),
    "adapter.handed": NOT_HANDLED._replace(faces=("decorated",)),
    "adapter.refusal": NOT_HANDLED._replace(faces=("decorated",)),
    "adapter.ongoing": NOT_HANDLED,
    "delivery.delivery:Delivery.begin": NOT_HANDLED,
    "telemetry.operation:Operation.start_process": Fault((START,)),
    "telemetry.operation:Operation.start": Fault((SETTLE,)),
    "telemetry.operation.plain_traceparent": Fault((START,)),
    "telemetry.recording.plan": Fault((SETTLE,)),
    "adapter.describe": Fault((START, "reading a delivery")),
    "delivery.delivery.record_settle": Fault((SETTLE,)),
    "telemetry.metrics:Meters.processing": Fault((MEASURE,)),
    "telemetry.metrics:Meters.prepared": Fault((MEASURE,)),
    "telemetry.exceptions:Exceptions.record": Fault((END,)),
    "telemetry.operation:Operation.end": Fault((CLOSE, SETTLE)),
    "conventions.settlement_attributes": Fault((CLOSE, SETTLE)),
    "adapter.end_attributes": Fault((CLOSE,)),
}


@over(place=HANDLING, face=FACES)
@needs("settles")
def a_fault_while_handling_is_logged_once_and_hinders_nothing(client: Client, place: str) -> None:
    fault = HANDLING[place]
    if client.face not in fault.faces:
        return
    ran = _three_messages_while_broken(client, place)
    said = [line for line in client.lines.take() if line not in map(_line, client.doing_besides)]
    doing = [each for each in fault.doing if place not in client.not_called]
    assert sorted(map(_line, doing)) == sorted(said)
    settled = ["ack", "ack", "reject"] if fault.settled else []
    assert settled == client.settlements()
    assert ([] if fault.swallowed else ran.raised) == ran.escaped


def _three_messages_while_broken(client: Client, place: str) -> Ran:
    """The third of them fails."""
    turns = iter((succeeds, succeeds, raises(ValueError("no stock"))))
    for _ in range(3):
        client.send_untraced()
    ran = client.subscribe(
        lambda message: next(turns)(message), prefetch=3, policy=client.reject_on_error
    )
    with _broken(client, place):
        client.drive(lambda: ran.times == 3, ran)
        client.sync()
    assert 3 == ran.times
    return ran


def _fails_by_its_status(_message: Message) -> None:
    trace.get_current_span().set_status(trace.StatusCode.ERROR)


UNDECIDED = ("adapter.failed_status", "delivery.delivery.outcome_of")


@over(place=UNDECIDED, face=FACES)
@needs("settles")
def where_it_is_not_known_how_a_handling_went_nothing_is_settled(
    client: Client, place: str
) -> None:
    handler = _fails_by_its_status if place == UNDECIDED[0] else raises(ValueError("no stock"))
    client.send_untraced()
    ran = client.subscribe(handler, policy=client.reject_on_error)
    with _broken(client, place):
        client.drive(lambda: ran.times, ran)
    assert [] == client.settlements()
    assert ran.raised == ran.escaped
    assert [_line("concluding how the handling went")] == client.lines.take()


METERS = ("processing", "consumed")


@over(meter=METERS, face=FACES)
@needs("settles")
def where_the_metrics_fail_the_spans_are_what_they_were(client: Client, meter: str) -> None:
    client.send()
    ran = client.subscribe(raises(ValueError("no stock")), policy=client.reject_on_error)
    with _broken(client, f"telemetry.metrics:Meters.{meter}"):
        client.drive(lambda: ran.times, ran)
        client.sync()
    is_counted_before = meter == "consumed" and client.is_asking_seen
    assert [_line(MEASURE)] * (not is_counted_before) == client.lines.take()
    process = client.a_process(settlement="reject", reason="failed: ValueError").failed(
        ValueError("no stock")
    )
    settle = client.a_settle("reject", reason="failed: ValueError")
    client.expect_spans(client.a_publish(), process, settle)


@over(face=FACES)
@needs("settles")
def a_settlement_that_fails_is_said_for_each_message_and_its_failure_propagates(
    client: Client,
) -> None:
    ran = _three_messages_while_broken(client, "adapter.settle")
    queue = client.processes.split()[1]
    ack, reject = (
        f"could not {client.settle_name(each)} a message of {queue}; the broker will hand it out again"
        for each in ("ack", "reject")
    )
    assert [ack, ack, reject] == client.lines.take()
    assert [] == client.settlements()
    assert ran.raised == ran.escaped


def _publish(client: Client) -> str:
    """What the client calls it."""
    return client.publishes.split()[0]


SENDING = {
    "telemetry.recording.inject_into": "injecting context into message headers",
    "interception.sends.start_send": "starting to publish",
    "telemetry.operation:Operation.start_span": "starting to publish",
    "telemetry.recording._outgoing_attributes": "starting to publish",
    "telemetry.operation:Operation.end": "ending a publish",
    "telemetry.metrics:Meters.prepared": MEASURE,
}


@over(place=SENDING, face=("wrapped", "instrumented"))
def a_fault_while_sending_is_logged_once_and_every_message_is_sent(
    client: Client, place: str
) -> None:
    with _broken(client, place):
        for body in (b"1", b"2", b"3"):
            client.send(body, client.carrier({"color": "red"}))
    doing = SENDING[place].replace("publish", _publish(client))
    assert [_line(doing)] == client.lines.take()
    messages = [client.fetch() for _ in range(3)]
    assert [b"1", b"2", b"3"] == [message.body for message in messages]
    assert ["red"] * 3 == [message.headers["color"] for message in messages]


ENDINGS = {"telemetry.operation:Operation.end", "telemetry.operation:Operation._set_end_attributes"}


@over(outcome="outcomes", style="senders", place=sorted(ENDINGS))
@needs("reports_completion")
def a_fault_at_the_end_of_a_publish_does_not_hide_what_became_of_it(
    client: Client, outcome: str, style: str, place: str
) -> None:
    with silence():
        untraced = client.send_so_that(outcome, "blocking")
    is_told = untraced.error is not None or client.features.tells_place
    expected = int(is_told or place.endswith("end"))
    with _broken(client, place):
        if style == "blocking":
            assert type(untraced.raised) is type(client.send_so_that(outcome, style).raised)
        else:
            client.send_at_once([outcome], style, unseen=True)
        # The client may tell its caller before it tells us.
        deadline = time.monotonic() + DEADLINE
        while len(client.lines.records) < expected and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    said = client.lines.take()
    publish = _publish(client)
    doing = (f"ending a {publish}", f"reading what became of a {publish}", END)
    faults = set(map(_line, doing))
    assert set(said) <= faults
    assert expected == len(said)


RECEIVING = {
    "telemetry.recording.plan": "recording a receive",
    "interception.receives.start_receive": "recording a receive",
    "telemetry.recording.batch_links": "recording a receive",
    "telemetry.operation:Operation.call_on_start": "recording a receive",
    "telemetry.operation:Operation.end": "recording a receive",
    "telemetry.metrics:Meters.prepared": MEASURE,
}


@over(place=RECEIVING, face=("wrapped", "instrumented"))
def a_fault_while_receiving_is_logged_once_and_every_message_is_received(
    client: Client, place: str
) -> None:
    for body in (b"1", b"2", b"3"):
        client.send_untraced(body)
    if client.face == "wrapped":
        client.wrap_consumer()
    with _broken(client, place):
        bodies = [client.fetch().body for _ in range(3)]
    assert [b"1", b"2", b"3"] == bodies
    assert [_line(RECEIVING[place])] == client.lines.take()


LOOPING = {
    "adapter.read": "reading a delivery",
    "adapter.opened": "opening a delivery",
    "delivery.delivery:Delivery.begin": BEGIN,
    "delivery.delivery:Delivery.conclude_turn": "ending a turn of a loop",
    "telemetry.operation:Operation.end": CLOSE,
}


@over(place=LOOPING, style="loops")
def a_fault_in_a_loop_is_logged_once_and_every_turn_is_had(
    client: Client, place: str, style: str
) -> None:
    bodies = []
    for body in (b"1", b"2", b"3"):
        client.send_untraced(body)
    with _broken(client, place):
        for item in client.loop(style, prefetch=3):
            bodies.append(client.message(item).body)
            if bodies[-1] == b"3":
                break
        del item
    assert [b"1", b"2", b"3"] == bodies
    assert client.is_current_nothing()
    assert [_line(LOOPING[place])] == client.lines.take()


BLOCKS = {
    "adapter.given": "reading what process was given",
    "adapter.read": "reading a delivery",
    "delivery.delivery:Delivery.begin": BEGIN,
    "telemetry.operation:Operation.start_process": START,
    "telemetry.operation:Operation.end": CLOSE,
}


@over(place=BLOCKS)
@needs("settles")
def a_fault_around_a_block_is_logged_once_and_the_block_is_run(client: Client, place: str) -> None:
    for _ in range(3):
        client.send_untraced()
    messages = [client.fetch() for _ in range(3)]
    runs = 0
    with _broken(client, place):
        for message in messages:
            with client.block(message, policy=client.reject_on_error):
                runs += 1
    assert 3 == runs
    unsettled = BLOCKS[place] in {BEGIN, BLOCKS["adapter.given"]}
    assert ([] if unsettled else ["ack"] * 3) == client.settlements()
    besides = [_line(each) for each in client.doing_besides]
    assert [_line(BLOCKS[place])] == [each for each in client.lines.take() if each not in besides]


@over(place=BLOCKS)
@needs("settles")
def a_fault_around_a_block_does_not_hide_its_exception(client: Client, place: str) -> None:
    client.send_untraced()
    message = client.fetch()
    error = ValueError("no stock")
    with (
        _broken(client, place),
        pytest.raises(ValueError, match="no stock") as raised,
        client.block(message, policy=client.reject_on_error),
    ):
        raise error
    assert error is raised.value
    client.lines.take()


# -- faults of what the user has plugged in --------------------------------------------------------


class _Fields(set[str]):
    def __iter__(self) -> Iterator[str]:
        raise BoomError


def _propagator(**broken: Any) -> Any:
    """The usual one, with a part that fails."""
    usual = propagate.get_global_textmap()
    parts = {"inject": usual.inject, "extract": usual.extract, "fields": usual.fields}
    return mock.Mock(spec_set=list(parts), **{**parts, **broken})


PROPAGATORS: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "inject": ({"inject": _boom}, ("injecting context into message headers",)),
    "fields": ({"fields": _Fields()}, ("injecting context into message headers",)),
    "extract": ({"extract": _boom}, ("reading the context in message headers",)),
}


@over(part=PROPAGATORS, face=FACES)
@needs("settles")
def a_propagator_that_fails_hinders_no_message(client: Client, part: str) -> None:
    broken, doing = PROPAGATORS[part]
    propagate.set_global_textmap(_propagator(**broken))
    for _ in range(2):
        client.send(b"order", client.carrier({"color": "red"}))
    ran = client.handle(succeeds, runs=2, prefetch=2, policy=client.reject_on_error)
    assert ["red"] * 2 == [message.headers["color"] for message in ran.messages]
    assert ["ack"] * 2 == client.settlements()
    assert [client.publishes] * 2 + [client.processes] * 2 == [
        span.name for span in client.telemetry.spans()
    ]
    assert list(map(_line, doing)) == client.lines.take()


class _Sampler(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise BoomError

    def get_description(self) -> str:
        return "fails"


class _StartFails(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise BoomError


class _EndFails(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise BoomError


def _tracers(part: str) -> TracerProvider:
    if part == "sampler":
        return TracerProvider(sampler=_Sampler(), shutdown_on_exit=False)
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(_StartFails() if part == "start" else _EndFails())
    return tracers


STARTING = ("starting a send span", START, "starting a settle span")
TRACERS = {"sampler": STARTING, "start": STARTING, "end": ("ending a span",)}


@over(part=TRACERS, face=FACES)
@needs("settles")
def a_tracer_that_fails_hinders_no_message(client: Client, part: str) -> None:
    with mock.patch.dict(client.telemetry.providers, tracer_provider=_tracers(part)):
        _configure(client)
        turns = iter((succeeds, raises(ValueError("no stock")), succeeds))
        for _ in range(3):
            client.send(b"order", client.carrier({"color": "red"}))
        ran = client.handle(
            lambda message: next(turns)(message), runs=3, prefetch=3, policy=client.reject_on_error
        )
    assert ["red"] * 3 == [message.headers["color"] for message in ran.messages]
    assert ["ack", "reject", "ack"] == client.settlements()
    besides = [_line(each) for each in client.doing_besides if each not in TRACERS[part]]
    said = [line for line in client.lines.take() if line not in besides]
    assert list(map(_line, TRACERS[part])) == said


def _configure(client: Client, **settings: Any) -> None:
    """Sender and, where it is the process, everything."""
    if client.face in {"instrumented", "together"}:
        client.instrument(**settings)
    if client.face != "instrumented":
        client.configure_sender(**settings)


@over(hook=("on_start", "on_end"), face=FACES)
@needs("settles")
def a_hook_that_fails_is_logged_once_and_changes_nothing(client: Client, hook: str) -> None:
    settings: Any = {hook: _boom}
    turns = iter((succeeds, raises(ValueError("no stock"))))
    _configure(client, **settings)
    client.send()
    client.send()
    client.handle(
        lambda message: next(turns)(message),
        runs=2,
        prefetch=2,
        policy=client.reject_on_error,
        **settings,
    )
    assert ["ack", "reject"] == client.settlements()
    assert [_line(f"calling the {hook} hook")] == client.lines.take()
    client.expect_spans(
        client.a_publish(),
        client.a_publish(trace=1),
        client.a_process(settlement="ack"),
        client.a_process(settlement="reject", reason="failed: ValueError", trace=1).failed(
            ValueError("no stock")
        ),
        client.a_settle("reject", reason="failed: ValueError", trace=1),
    )


@over(face=FACES)
@needs("settles")
def hooks_see_each_operation_begin_and_end(client: Client) -> None:
    seen: list[Any] = []

    def see(when: str, operation: Any, native: Any) -> None:
        name, queue = operation.action.name, operation.endpoint.destination
        if queue == client.queue and name not in client.operations_besides:
            seen.append((when, name, native is not None))

    hooks: Any = {
        "on_start": functools.partial(see, "start"),
        "on_end": functools.partial(see, "end"),
    }
    _configure(client, **hooks)
    client.send()
    client.handle(raises(ValueError("no stock")), policy=client.reject_on_error, **hooks)
    publish, settle = client.publishes.split()[0], client.settle_name("reject")
    assert [
        ("start", publish, True),
        ("end", publish, True),
        ("start", "process", True),
        ("start", settle, False),
        ("end", settle, False),
        ("end", "process", True),
    ] == seen


# -- exceptions ------------------------------------------------------------------------------------

SIGNALS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "": (("ValueError",), 0),
    "http": (("ValueError",), 0),
    "logs": ((), 1),
    "logs/dup": (("ValueError",), 1),
    "database, logs": ((), 1),
}
"""What `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN` asks for: span events, log records."""


@over(signal=SIGNALS, face=FACES, sampling=("sampled", "unsampled"))
@needs("settles")
def an_exception_is_recorded_as_is_asked_for(client: Client, signal: str) -> None:
    events, records = SIGNALS[signal]
    client.send_untraced(headers={"traceparent": VALID} if client.telemetry.records else None)
    with client.environment(OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=signal):
        _configure(client)
        client.handle(raises(ValueError("no stock")), policy=client.reject_on_error)
    if client.telemetry.records:
        (process,) = (span for span in client.telemetry.spans() if span.name == client.processes)
        elsewhere = {"parent": "elsewhere", "links": ("elsewhere",)}
        failed = client.a_process(
            settlement="reject", reason="failed: ValueError", **elsewhere
        ).failed(ValueError("no stock"))
        assert failed._replace(exceptions=events) == process
    emitted = client.telemetry.log_records.emitted
    assert [("messaging.process.exception", "ERROR")] * records == [
        (each.event_name, each.severity_text) for each in emitted
    ]
    for record in emitted:
        attributes = dict(record.attributes or {})
        assert "no stock" in attributes.pop("exception.stacktrace")
        assert {"exception.type": "ValueError", "exception.message": "no stock"} == attributes
        assert _is_in(record, client)


def _is_in(record: Any, client: Client) -> bool:
    """Whether a log record belongs to the process span."""
    span = trace.get_current_span(record.context).get_span_context()
    processes = client.telemetry.named(client.processes)
    return not client.telemetry.records or [span.span_id] == [
        each.context.span_id for each in processes
    ]


@over(signal=SIGNALS)
@needs("reports_completion")
def a_sender_exception_is_recorded_as_is_asked_for(client: Client, signal: str) -> None:
    events, records = SIGNALS[signal]
    with client.environment(OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=signal):
        sent = client.send_so_that(client.features.outcomes[-1], "blocking")
    (span,) = client.telemetry.named(sent.name)
    assert len(events) == len(span.events)
    assert [("messaging.send.exception", "WARN")] * records == [
        (each.event_name, each.severity_text) for each in client.telemetry.log_records.emitted
    ]


class UnspeakableError(Exception):
    """It cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@over(face=FACES, sampling=SAMPLINGS)
@needs("settles")
def an_exception_that_cannot_be_told_is_a_failure_all_the_same(client: Client) -> None:
    client.send_untraced()
    ran = client.handle(raises(UnspeakableError()), policy=client.reject_on_error)
    assert [] == ran.escaped
    assert ["reject"] == client.settlements()
    if client.telemetry.records:
        assert [_line(END, "RuntimeError")] == client.lines.take()
        attributes = client.telemetry.attributes(client.processes)
        assert f"{__name__}.UnspeakableError" == attributes["error.type"]
        assert "reject" == attributes["hopspan.settlement"]


# -- what is the user's stays the user's -----------------------------------------------------------


RETURNED: tuple[Any, ...] = (
    None, 0, "", False, NotImplemented, ..., object(), [], ValueError("returned"), ValueError,
    hopspan.Verdict.REJECT, hopspan.reject_on_error,
)  # fmt: skip


@over(face=FACES, sampling=SAMPLINGS)
@needs("settles")
def what_a_handler_returns_is_what_the_client_gets(client: Client) -> None:
    for _ in RETURNED:
        client.send_untraced()
    messages = [client.fetch() for _ in RETURNED]
    left = list(RETURNED)
    client.subscribe(lambda _: left.pop(0), policy=client.reject_on_error)
    returned = list(map(client.registered(), messages))
    assert [] == [
        (before, after)
        for before, after in zip(RETURNED, returned, strict=True)
        if before is not after
    ]
    client.sync()
    assert ["ack"] * len(RETURNED) == client.settlements()


def _as_it_is(client: Client) -> tuple[dict[str, Any], ExitStack]:
    return {}, ExitStack()


def _reraised(client: Client) -> tuple[dict[str, Any], ExitStack]:
    return {"policy": client.reject_on_error, "reraise": True}, ExitStack()


def _not_settled(client: Client) -> tuple[dict[str, Any], ExitStack]:
    stack = ExitStack()
    stack.enter_context(_broken(client, "adapter.settle"))
    return {"policy": client.reject_on_error}, stack


def _while_hooks_fail(client: Client) -> tuple[dict[str, Any], ExitStack]:
    return {"on_start": _boom, "on_end": _boom}, ExitStack()


def _while_ending_fails(client: Client) -> tuple[dict[str, Any], ExitStack]:
    stack = ExitStack()
    stack.enter_context(_broken(client, "telemetry.operation:Operation.end"))
    return {}, stack


WAYS_THROUGH = (_as_it_is, _reraised, _not_settled, _while_hooks_fail, _while_ending_fails)


@over(way=WAYS_THROUGH, face=FACES, sampling=SAMPLINGS)
@needs("settles")
def an_exception_of_the_users_comes_out_as_it_went_in(
    client: Client, way: Callable[[Client], tuple[dict[str, Any], ExitStack]]
) -> None:
    inner, outer = KeyError("inner"), ValueError("outer")

    def handler(_message: Message) -> NoReturn:
        try:
            raise inner
        except KeyError:
            raise outer  # noqa: B904 - its context is what this is about

    client.send_untraced()
    message = client.fetch()
    settings, stack = way(client)
    client.subscribe(handler, **settings)
    with stack, pytest.raises(ValueError, match="outer") as raised:
        client.registered()(message)
    assert outer is raised.value
    assert inner is outer.__context__
    assert inner.__context__ is None
    assert (None, False) == (outer.__cause__, outer.__suppress_context__)
    assert not hasattr(outer, "__notes__")
    assert "handler" == traceback.extract_tb(outer.__traceback__)[-1].name
    client.lines.take()


@over(face=("wrapped", "instrumented"))
def a_mistake_of_the_senders_is_told_by_the_client_itself(client: Client) -> None:
    mistakes = []
    for traced in (False, True):
        with pytest.raises(TypeError) as mistake:
            client.send_wrongly(traced=traced)
        mistakes.append(str(mistake.value))
    assert mistakes[0] == mistakes[1]
    client.expect_spans()
