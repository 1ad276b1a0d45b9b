"""Unsampled at once: a span that is not started looks, to everybody, like the one of the SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

import hopspan
from hopspan.config import Config
from hopspan.conventions import Action
from hopspan.model import Endpoint, MessageInfo, OperationType, Outgoing
from hopspan.propagation import MAPPING
from hopspan.telemetry import Instrumenter, forget_defaults, sampling, start_send
from hopspan.telemetry import instrumenter as instrumenters
from hopspan.telemetry.sampling import unsampled, unsampled_root
from hopspan.telemetry.spans import StatusSpan
from hopspan.testing import Message, Queue
from tests.unit.support import Telemetry

PLAIN = pytest.mark.parametrize(
    "sampler",
    [
        DEFAULT_ON,
        DEFAULT_OFF,
        ParentBased(TraceIdRatioBased(0.5)),
        ParentBasedTraceIdRatio(0.5),
        ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF),
    ],
    ids=range(5),
)
WHERE = pytest.mark.parametrize("remote", [True, False])


class Always(RandomIdGenerator):
    """Gives the same ids again and again, so that whole values can be compared."""

    def generate_trace_id(self) -> int:
        return 0xAA

    def generate_span_id(self) -> int:
        return 0xCC


def tracer(sampler: Sampler) -> Tracer:
    provider = TracerProvider(sampler, Resource({}), shutdown_on_exit=False, id_generator=Always())
    found = provider.get_tracer("test")
    assert isinstance(found, Tracer)
    return found


# -- as a function ---------------------------------------------------------------------------------

STATES = st.lists(
    st.tuples(st.from_regex("[a-z]{1,4}", fullmatch=True), st.just("1")), max_size=3
).map(TraceState)
PARENTS = st.builds(
    lambda ids, flags, state, remote: SpanContext(*ids, remote, TraceFlags(flags & 0xFE), state),
    st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1)),
    st.integers(0, 255),
    st.none() | STATES,
    st.booleans(),
)
TRACERS = [tracer(DEFAULT_ON), tracer(ParentBasedTraceIdRatio(0.5))]


@given(PARENTS, st.sampled_from(TRACERS))
def test_it_has_the_identity_that_the_sdk_gives(parent: SpanContext, its: Tracer) -> None:
    make = unsampled(its, remote=parent.is_remote)
    assert make is not None
    span = make(parent)
    started = its.start_span("x", set_span_in_context(NonRecordingSpan(parent), Context()))
    assert (isinstance(span, StatusSpan), type(started)) == (True, NonRecordingSpan)
    mine, theirs = span.get_span_context(), started.get_span_context()
    assert tuple(mine) == tuple(theirs)
    assert (mine.is_valid, type(mine.trace_flags)) == (True, TraceFlags)


@PLAIN
@WHERE
def test_it_is_made_where_a_plain_sampler_would_drop_it(sampler: Sampler, remote: bool) -> None:
    assert unsampled(tracer(sampler), remote=remote) is not None


class Mine(ParentBased):
    """One of the application's: it may sample whatever it likes."""


class MyTracer(Tracer):
    """A tracer of a distribution of its own."""


def subclassed(its: Tracer) -> Any:
    return MyTracer(*(getattr(its, name) for name in (
        "sampler", "resource", "span_processor", "id_generator", "instrumentation_info",
        "_span_limits", "_instrumentation_scope",
    )))  # fmt: skip


@pytest.mark.parametrize(
    "its",
    [
        tracer(ALWAYS_OFF),
        tracer(ALWAYS_ON),
        tracer(TraceIdRatioBased(0.5)),
        tracer(Mine(ALWAYS_ON)),
        subclassed(tracer(DEFAULT_ON)),
        trace.NoOpTracer(),
        trace.ProxyTracer("test"),
        object(),
    ],
    ids=range(8),
)
@WHERE
def test_the_span_is_started_wherever_the_sdk_is_not_plainly_known(its: Any, remote: bool) -> None:
    assert unsampled(its, remote=remote) is None


class Deciding(Sampler):
    """A delegate that calls itself like the one that drops everything."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        return ALWAYS_OFF.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return ALWAYS_OFF.get_description()


@pytest.mark.parametrize(
    "delegate", [ALWAYS_ON, TraceIdRatioBased(0.5), DEFAULT_ON, Deciding()], ids=range(4)
)
@pytest.mark.parametrize("root", [ALWAYS_ON, DEFAULT_ON], ids=["plain", "nested"])
@WHERE
def test_the_one_who_decides_about_such_parents_is_asked(
    delegate: Sampler, root: Sampler, remote: bool
) -> None:
    """The description of a nested sampler says of itself what does not hold around it."""
    where = "remote" if remote else "local"
    delegates: dict[str, Any] = {f"{where}_parent_not_sampled": delegate}
    its = tracer(ParentBased(root, **delegates))
    assert unsampled(its, remote=remote) is None
    assert unsampled(its, remote=not remote) is not None


def test_where_the_sdk_counts_its_spans_they_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    its: Any = tracer(DEFAULT_ON)
    if not hasattr(its, "_tracer_metrics"):
        pytest.skip("this SDK does not count its spans")
    assert unsampled(its, remote=True) is None


def test_so_they_are_where_it_always_counts_them() -> None:
    """As releases did before there was a variable for it."""
    its: Any = tracer(DEFAULT_ON)
    its._tracer_metrics = object()
    assert unsampled(its, remote=True) is None


def test_a_tracer_that_is_switched_off_is_asked() -> None:
    its: Any = tracer(DEFAULT_ON)
    its.start_span = lambda name, context: trace.get_current_span(context)
    assert unsampled(its, remote=True) is None


def test_a_span_context_that_is_laid_out_otherwise_is_made_by_the_sdk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "IS_LAID_OUT", False)
    assert unsampled(tracer(DEFAULT_ON), remote=True) is None


def test_an_sdk_that_answers_in_another_way_is_asked_each_time() -> None:
    its: Any = tracer(DEFAULT_ON)
    parent = SpanContext(1, 2, True, trace_state=TraceState([("a", "1")]))
    its.start_span = lambda name, context: NonRecordingSpan(parent)
    assert unsampled(its, remote=True) is None


# -- for who handles a message ---------------------------------------------------------------------


def sent(flags: str = "00", **more: str) -> dict[str, str]:
    return {"traceparent": f"00-{0xA:032x}-{0xB:016x}-{flags}", **more}


HEADERS = pytest.mark.parametrize(
    "headers",
    [
        sent(),
        sent("02"),
        sent("fe"),
        sent(tracestate="a=1"),
        sent("02", tracestate="a=1", baggage="tenant=acme"),
        {"TraceParent": sent()["traceparent"]},
        sent("01"),
        {},
    ],
    ids=range(8),
)


class Story:
    """A message handled with a sampler: everything that can be seen of it."""

    def __init__(self, sampler: Sampler, headers: dict[str, str]) -> None:
        self.telemetry = Telemetry(sampler)
        self.telemetry.tracer_provider.id_generator = Always()
        self.headers, self.seen = headers, []
        self.settings = self.telemetry.settings
        self.queue = Queue("orders")

    def note(self, *values: Any) -> None:
        self.seen.append(values)

    def hook(self, name: str) -> Callable[[Any, Any], None]:
        def note(operation: Any, native: Any) -> None:
            identity = tuple(operation.span.get_span_context())
            self.note(name, operation.plan.name, identity, operation.span.is_recording(), native)

        return note

    def handler(self, message: Message) -> None:
        current = hopspan.current()
        self.note(tuple(trace.get_current_span().get_span_context()))
        self.note(current.span is trace.get_current_span(), isinstance(current.span, StatusSpan))
        self.note(current.context == trace.set_span_in_context(current.span, current.context))
        self.note(hopspan.inject({"color": "red"}), self.queue.publish().headers)
        nested = self.telemetry.tracer_provider.get_tracer("nested").start_span("nested")
        self.note(type(nested).__name__, tuple(nested.get_span_context()))
        if message.body == "status":
            trace.get_current_span().set_status(StatusCode.ERROR, "bad")
        if message.body == "fail":
            current.fail("bad", type="bad")
        if message.body == "raise":
            raise ValueError("bad")

    def tell(self) -> list[Any]:
        handle = hopspan.consumer(policy=hopspan.reject_on_error, **self.settings)(self.handler)
        messages = [Message(body, self.headers) for body in ("", "status", "fail", "raise")]
        for message in messages:
            handle(message)
        self.note([message.verdict for message in messages])
        for name in ("process.duration", "client.consumed.messages"):
            self.note(name, self.telemetry.points(f"messaging.{name}"))
        self.note([(record.event_name, record.span_id) for record in self.telemetry.logs])
        links = [[tuple(link.context) for link in span.links] for span in self.telemetry.spans]
        self.note(self.telemetry.seen, links)
        return [repr(each) for each in self.seen]


SETTINGS = pytest.mark.parametrize("hooked", [False, True])


@PLAIN
@HEADERS
@SETTINGS
def test_nobody_can_tell_it_from_the_sdks(
    sampler: Sampler, headers: dict[str, str], hooked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hooked:
        monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs/dup")

    def told() -> list[Any]:
        forget_defaults()
        story = Story(sampler, headers)
        if hooked:
            story.settings |= {name: story.hook(name) for name in ("on_start", "on_end")}
        return story.tell()

    at_once = told()
    monkeypatch.setattr(instrumenters, "unsampled", lambda tracer, remote: None)
    assert at_once == told()


@pytest.mark.parametrize(("flags", "asked"), [("00", 0), ("02", 0), ("01", 1)])
def test_the_sampler_is_not_asked_about_what_it_would_drop(
    flags: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry, names = Telemetry(DEFAULT_ON), []
    original = ParentBased.should_sample

    def should_sample(self: Any, context: Any, trace_id: int, name: str, *rest: Any) -> Any:
        names.append(name)
        return original(self, context, trace_id, name, *rest)

    monkeypatch.setattr(ParentBased, "should_sample", should_sample)
    handle = hopspan.consumer(**telemetry.settings)(lambda message: None)
    for _ in range(3):
        handle(Message(headers=sent(flags)))
    assert names.count("process test") == 3 * asked
    assert len(telemetry.spans) == 3 * asked


# -- for who publishes -----------------------------------------------------------------------------

ENDPOINT = Endpoint("memory", "orders")
PUBLISH = Action("publish", OperationType.SEND)


def published(
    sampler: Sampler, parent: SpanContext, headers: Any, settings: dict[str, Any]
) -> tuple[Any, ...]:
    """All that can be seen of a publish below a span."""
    telemetry = Telemetry(sampler)
    telemetry.tracer_provider.id_generator = Always()
    instrumenter = Instrumenter(Config(**telemetry.settings, **settings))
    outgoing = Outgoing(ENDPOINT, MessageInfo("m1"), headers, lambda headers: ((headers,), {}))
    context = baggage.set_baggage("tenant", "acme", Context()) if parent.span_id % 2 else Context()
    seen: list[Any] = []
    for _ in range(2):  # the first resolves which tracer starts spans
        token = attach(set_span_in_context(NonRecordingSpan(parent), context))
        operation, carried = start_send(instrumenter, PUBLISH, outgoing, MAPPING)
        assert operation is not None
        identity = tuple(operation.span.get_span_context())
        seen.append((identity, carried, operation.plan.name, operation.span.is_recording()))
        operation.end()
        detach(token)
    points = telemetry.points("messaging.client.sent.messages")
    return seen, points, [len(span.links) for span in telemetry.spans], telemetry.seen


@PLAIN
@pytest.mark.parametrize("span_id", [2, 3], ids=["alone", "with baggage"])
@pytest.mark.parametrize(
    "headers", [None, {"color": "red"}, {"TraceParent": "x", "tracestate": ""}]
)
@pytest.mark.parametrize("flags", [0, 2, 1])
@pytest.mark.parametrize("state", [None, TraceState([("a", "1")])], ids=["plain", "state"])
@WHERE
def test_nobody_can_tell_the_publish_from_the_sdks(
    sampler: Sampler,
    span_id: int,
    headers: Any,
    flags: int,
    state: TraceState | None,
    remote: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = SpanContext(1, span_id, remote, TraceFlags(flags), state)
    at_once = published(sampler, parent, headers, {})
    monkeypatch.setattr(instrumenters, "unsampled", lambda tracer, remote: None)
    assert at_once == published(sampler, parent, headers, {})


@WHERE
def test_no_span_is_started_for_a_publish_that_would_not_be_sampled(
    remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    original = ParentBased.should_sample

    def should_sample(self: Any, context: Any, trace_id: int, name: str, *rest: Any) -> Any:
        asked.append(name)
        return original(self, context, trace_id, name, *rest)

    monkeypatch.setattr(ParentBased, "should_sample", should_sample)
    published(DEFAULT_ON, SpanContext(1, 2, remote), None, {})
    assert "publish orders" not in asked
    published(DEFAULT_ON, SpanContext(1, 2, remote, TraceFlags(1)), None, {})
    assert asked.count("publish orders") == 2


def test_hooks_see_the_span_of_such_a_publish() -> None:
    statuses: list[Any] = []
    hooks = {"on_end": lambda operation, _: statuses.append(operation.span.status.status_code)}
    published(DEFAULT_ON, SpanContext(1, 2, is_remote=False), None, hooks)
    assert statuses == [StatusCode.UNSET] * 2


# -- without a parent ------------------------------------------------------------------------------


def test_a_root_that_is_never_sampled_has_the_identity_that_the_sdk_gives() -> None:
    its = tracer(DEFAULT_OFF)
    make = unsampled_root(its)
    assert make is not None
    made = make().get_span_context()
    theirs = its.start_span("x", Context()).get_span_context()
    assert (theirs.trace_flags, theirs.is_remote, theirs.trace_state) == (
        made.trace_flags,
        made.is_remote,
        made.trace_state,
    )
    assert made.is_valid


@pytest.mark.parametrize(
    "sampler", [DEFAULT_ON, ALWAYS_OFF, ParentBased(TraceIdRatioBased(0.0)), ALWAYS_ON]
)
def test_any_other_root_is_started(sampler: Sampler) -> None:
    assert unsampled_root(tracer(sampler)) is None
