"""Span capture: spans that answer in sentences, and say what was found when they do not agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, StatusCode

import hopspan
from hopspan import testing
from hopspan.model import Verdict
from hopspan.testing import CapturedSpan, CapturedSpans, Message, capture_spans


@pytest.fixture
def provider() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


@pytest.fixture
def captured(provider: TracerProvider) -> CapturedSpans:
    """A root span, a child that links to it and failed, and a settled one."""
    tracer = provider.get_tracer("test")
    with capture_spans(provider) as spans:
        with tracer.start_as_current_span("root") as root:
            links = [Link(root.get_span_context())]
            with tracer.start_as_current_span("child", links=links) as child:
                child.set_status(StatusCode.ERROR, "bad")
                child.set_attribute("error.type", "ValueError")
        with tracer.start_as_current_span("settled", attributes={"hopspan.settlement": "ack"}):
            pass
    return spans


def test_spans_are_captured_in_the_order_in_which_they_ended(captured: CapturedSpans) -> None:
    assert (captured.names(), len(captured)) == (["child", "root", "settled"], 3)
    assert [span.name for span in captured] == captured.names()


def test_only_what_ends_in_the_block_is_captured(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("test")
    tracer.start_span("before").end()
    with capture_spans(provider) as spans:
        tracer.start_span("inside").end()
    tracer.start_span("after").end()
    assert spans.names() == ["inside"]


def test_blocks_may_nest(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("test")
    with capture_spans(provider) as outer:
        tracer.start_span("outer").end()
        with capture_spans(provider) as inner:
            tracer.start_span("inner").end()
    assert (outer.names(), inner.names()) == (["outer", "inner"], ["inner"])


def test_a_span_tells_its_attributes_and_identity(captured: CapturedSpans) -> None:
    span = captured.one("settled")
    assert span.attributes == {"hopspan.settlement": "ack"}
    assert span.context == span.span.get_span_context()
    assert repr(span) == "<span 'settled' {'hopspan.settlement': 'ack'}>"


def test_attributes_are_a_copy(captured: CapturedSpans) -> None:
    captured.one("settled").attributes["x"] = 1
    assert captured.one("settled").attributes == {"hopspan.settlement": "ack"}


Check = Callable[[CapturedSpans], Any]

HOLDS: list[tuple[str, Check]] = [
    ("child", lambda s: s.one("child").is_child_of(s.one("root"))),
    ("root", lambda s: s.one("root").is_root()),
    ("child", lambda s: s.one("child").is_linked_to(s.one("root"))),
    ("root", lambda s: s.one("root").is_linked_to()),
    ("root", lambda s: s.one("root").succeeded()),
    ("child", lambda s: s.one("child").failed_with("ValueError")),
    ("settled", lambda s: s.one("settled").was_settled("ack")),
    ("settled", lambda s: s.one("settled").was_settled(Verdict.ACK)),
    ("root", lambda s: s.one("root").was_not_settled()),
]


@pytest.mark.parametrize(("name", "check"), HOLDS)
def test_a_check_that_holds_returns_the_span(
    name: str, check: Check, captured: CapturedSpans
) -> None:
    """So that checks read as one sentence."""
    found = check(captured)
    assert isinstance(found, CapturedSpan)
    assert found.name == name


FAILS: list[tuple[Check, str]] = [
    (
        lambda s: s.one("root").is_child_of(s.one("child")),
        "'root' is not a child of 'child'; its parent is None",
    ),
    (lambda s: s.one("child").is_root(), "'child' is no root; its parent is SpanContext"),
    (lambda s: s.one("child").is_linked_to(), "'child' links to ["),
    (lambda s: s.one("root").is_linked_to(s.one("child")), "'root' links to [], not to ['child']"),
    (lambda s: s.one("child").succeeded(), "'child' failed: bad"),
    (lambda s: s.one("child").failed_with("KeyError"), "'child' did not fail with 'KeyError' but"),
    (lambda s: s.one("root").failed_with("KeyError"), "'root' did not fail with 'KeyError' but"),
    (
        lambda s: s.one("settled").was_settled(Verdict.REJECT),
        "the message of 'settled' was not settled as 'reject' but as 'ack'",
    ),
    (
        lambda s: s.one("settled").was_not_settled(),
        "the message of 'settled' was settled as 'ack'",
    ),
    (
        lambda s: s.one("nobody"),
        "0 spans are named 'nobody'; there are ['child', 'root', 'settled']",
    ),
]


@pytest.mark.parametrize(("check", "message"), FAILS)
def test_a_check_that_does_not_hold_says_what_was_found(
    check: Check, message: str, captured: CapturedSpans
) -> None:
    with pytest.raises(AssertionError) as raised:
        check(captured)
    assert str(raised.value).startswith(message)


def test_a_child_of_another_trace_is_no_child(
    provider: TracerProvider, captured: CapturedSpans
) -> None:
    """Span ids are unique in their trace only."""
    parent = captured.one("root")
    elsewhere = trace.SpanContext(
        parent.context.trace_id + 1,
        parent.context.span_id,
        is_remote=False,
        trace_flags=parent.context.trace_flags,
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(elsewhere))
    with capture_spans(provider) as spans:
        provider.get_tracer("test").start_span("x", context).end()
    with pytest.raises(AssertionError, match="is not a child of"):
        spans.one("x").is_child_of(parent)


def test_a_span_with_an_error_type_has_not_succeeded(provider: TracerProvider) -> None:
    with capture_spans(provider) as spans:
        provider.get_tracer("test").start_span("x", attributes={"error.type": "y"}).end()
    with pytest.raises(AssertionError, match="failed"):
        spans.one("x").succeeded()


def test_two_spans_of_one_name_are_not_one(provider: TracerProvider) -> None:
    with capture_spans(provider) as spans:
        for _ in range(2):
            provider.get_tracer("test").start_span("x").end()
    assert len(spans.named("x")) == 2
    with pytest.raises(AssertionError, match="2 spans are named 'x'"):
        spans.one("x")


def test_a_handler_under_test(provider: TracerProvider) -> None:
    """As the module's own documentation has it."""

    @hopspan.consumer(policy=hopspan.reject_on_error, tracer_provider=provider)
    def on_order(message: Message) -> None:
        raise ValueError("not json")

    with capture_spans(provider) as spans:
        on_order(Message(b"not json"))
    spans.one("process test").failed_with("ValueError").was_settled("reject")


# -- the global provider ---------------------------------------------------------------------------


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """As in a process in which no global tracer provider was set yet; the list has what is set."""
    state: list[Any] = [trace.ProxyTracerProvider()]
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: state[-1])
    monkeypatch.setattr(trace, "set_tracer_provider", state.append)
    return state


def test_a_global_provider_is_made_where_there_is_none(unset: list[Any]) -> None:
    with capture_spans() as spans:
        unset[-1].get_tracer("test").start_span("x").end()
    assert (isinstance(unset[-1], TracerProvider), spans.names()) == (True, ["x"])


def test_the_global_provider_is_used_where_there_is_one(
    unset: list[Any], provider: TracerProvider
) -> None:
    unset.append(provider)
    with capture_spans() as spans:
        provider.get_tracer("test").start_span("x").end()
    assert (unset[-1], spans.names()) == (provider, ["x"])


def test_a_global_provider_of_another_kind_is_an_error(unset: list[Any]) -> None:
    unset.append(trace.NoOpTracerProvider())
    with pytest.raises(TypeError) as raised:
        capture_spans()
    assert str(raised.value) == (
        "capture_spans needs the SDK's TracerProvider as the global one, which is a "
        "NoOpTracerProvider"
    )


# -- the package -----------------------------------------------------------------------------------


def test_what_needs_the_sdk_is_imported_when_it_is_asked_for() -> None:
    assert {name: getattr(testing, name).__name__ for name in testing.__all__} == {
        name: name for name in testing.__all__
    }


def test_what_is_not_there_is_an_attribute_error() -> None:
    name = "nonsense"
    with pytest.raises(
        AttributeError, match=r"module 'hopspan.testing' has no attribute 'nonsense'"
    ):
        getattr(testing, name)
