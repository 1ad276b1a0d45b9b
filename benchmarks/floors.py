"""What hand-written code does at the least: the measure of every instrumentation.

- SDK floor: the same span as hopspan's with everything ready: name, kind, attributes, links, and a
  message whose headers hold a context already. Nothing is injected or extracted.
- API floor: the SDK floor, with the context injected and extracted by the public API.
- metrics: the SDK floor, with the same metrics recorded directly.

No floor copies what it is given, handles errors of its own, or decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from benchmarks.modes import SAMPLED, Telemetry

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


class Shape(NamedTuple):
    """A span as hopspan has emitted it."""

    name: str
    kind: SpanKind
    attributes: Mapping[str, Any]
    is_linked: bool
    has_parent: bool

    @classmethod
    def of(cls, span: ReadableSpan) -> Shape:
        """What floors repeat of a span."""
        return cls(
            span.name,
            span.kind,
            dict(span.attributes or {}),
            bool(span.links),
            span.parent is not None,
        )


def traceparent(mode: str) -> str:
    """What a sender in the same mode has written. A service without SDK gets traced messages too."""
    return f"00-{TRACE:032x}-{SPAN:016x}-{'00' if mode == 'unsampled' else '01'}"


def sent_context(mode: str) -> Context:
    """The context that `traceparent` carries."""
    flags = TraceFlags(0 if mode == "unsampled" else 1)
    sender = SpanContext(TRACE, SPAN, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(sender), Context())


class Floor(NamedTuple):
    """What a client's hand-written code is made of."""

    name: str
    tracer: Tracer
    shape: Shape
    parent: Context
    """The message's context, ready."""
    links: tuple[Link, ...]
    """Of the message, ready."""
    propagates: bool
    """Whether context is injected and extracted by the API."""
    measure: Callable[[float, Context], None] | None
    """Records the metrics of one message."""
    carried: Mapping[str, str]
    """Headers with a context, ready."""


def floor(
    name: str,
    telemetry: Telemetry,
    shape: Shape,
    *,
    propagates: bool = False,
    measure: Callable[[float, Context], None] | None = None,
) -> Floor:
    """Hand-written code that emits such a span."""
    mode = telemetry.mode
    link = Link(SpanContext(TRACE, SPAN, is_remote=True, trace_flags=TraceFlags(1)))
    return Floor(
        name,
        telemetry.tracer(),
        shape,
        sent_context(mode),
        (link,) if shape.is_linked else (),
        propagates,
        measure,
        {"traceparent": traceparent(mode)},
    )


def recorder(
    telemetry: Telemetry, points: Mapping[str, list[dict[str, Any]]]
) -> Callable[[float, Context], None]:
    """Records the metrics that hopspan has recorded of one message, synchronously."""
    meter = telemetry.meter()
    durations = [
        (meter.create_histogram(name, "s"), about)
        for name, each in points.items()
        if name.endswith("duration")
        for about in each
    ]
    counts = [
        (meter.create_counter(name), about)
        for name, each in points.items()
        if not name.endswith("duration")
        for about in each
    ]

    def measure(seconds: float, context: Context) -> None:
        for histogram, about in durations:
            histogram.record(seconds, about, context)
        for counter, about in counts:
            counter.add(1, about, context)

    return measure


__all__ = ["SAMPLED", "Floor", "Shape", "floor", "recorder", "sent_context", "traceparent"]
