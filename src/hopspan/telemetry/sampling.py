"""Unsampled at once: spans that would be thrown away are not started.

Where the parent is not sampled, or there is none, and the sampler is the SDK's own plain
`ParentBased`, which then samples nothing, the SDK would look at name, attributes and links for
nothing, and return a `NonRecordingSpan`. The stand-in made here has the same identity and a status
that can be read. The guard is asked once for each tracer; for every other sampler or SDK the tracer
is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    DEFAULT_TRACE_STATE,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
)

from hopspan.model import make
from hopspan.propagation.w3c import IS_LAID_OUT, SPAN_KEY
from hopspan.telemetry.spans import LateSpan

if TYPE_CHECKING:
    from collections.abc import Callable

    Unsampled = Callable[[SpanContext], LateSpan]

_PLAIN = frozenset({"ParentBased", "ParentBasedTraceIdRatio"})
_SAMPLING = "opentelemetry.sdk.trace.sampling"
_RANDOM = 2
"""The flag of W3C Trace Context 2 by which a trace id is random; newer SDKs hand it on."""


def unsampled(tracer: Any, *, remote: bool) -> Unsampled | None:
    """How to make a span below an unsampled parent; None where it must be started."""
    try:
        if not _never_samples(tracer, "remote" if remote else "local"):
            return None
        return _maker(tracer, _probe(tracer, remote))
    except Exception:  # noqa: BLE001 - a tracer of another make
        return None


def unsampled_root(tracer: Any) -> Callable[[], LateSpan] | None:
    """How to make a span without a parent; None where it must be started."""
    try:
        if not _never_samples(tracer, "root"):
            return None
        span = tracer.start_span("hopspan-probe", Context())
        told = span.get_span_context()
        if type(span) is not NonRecordingSpan or not told.is_valid or told.trace_flags & ~_RANDOM:
            return None
    except Exception:  # noqa: BLE001 - a tracer of another make
        return None
    generator, flags, is_remote = tracer.id_generator, told.trace_flags, told.is_remote

    def make_context(_: SpanContext) -> SpanContext:
        trace_id, span_id = generator.generate_trace_id(), generator.generate_span_id()
        return make(SpanContext, (trace_id, span_id, is_remote, flags, DEFAULT_TRACE_STATE, True))

    return lambda: LateSpan(INVALID_SPAN_CONTEXT, make_context)


def _never_samples(tracer: Any, where: str) -> bool:
    sampler = tracer.sampler
    kind = type(sampler)
    decides = getattr(sampler, "_root" if where == "root" else f"_{where}_parent_not_sampled")
    return (
        IS_LAID_OUT
        and type(tracer).__module__ == "opentelemetry.sdk.trace"
        and not _counts_spans(tracer)
        and kind.__module__ == type(decides).__module__ == _SAMPLING
        and kind.__name__ in _PLAIN
        and decides.get_description() == "AlwaysOffSampler"
    )


def _counts_spans(tracer: Any) -> bool:
    """Whether the SDK counts the spans that it starts: from 1.42 on only where it is asked to."""
    counting = getattr(tracer, "_tracer_metrics", None)
    return counting is not None and type(counting).__name__ != "NoOpTracerMetrics"


def _probe(tracer: Any, remote: bool) -> tuple[bool, bool]:
    """Start one such span, of which nothing leaves; see that it is as expected.

    Returns whether the SDK hands the random flag on, and whether its identity counts as remote.

    Raises:
        ValueError: it is not as expected.
    """
    parent = SpanContext(1, 2, remote, TraceFlags(_RANDOM))
    context = Context({SPAN_KEY: NonRecordingSpan(parent)})
    span = tracer.start_span("hopspan-probe", context)
    told = span.get_span_context()
    if type(span) is not NonRecordingSpan or told.trace_id != 1 or told.span_id in {0, 2}:
        raise ValueError(span)
    if told.trace_flags not in {0, _RANDOM} or told.trace_state:
        raise ValueError(told)
    return bool(told.trace_flags & _RANDOM), told.is_remote


def _maker(tracer: Any, probed: tuple[bool, bool]) -> Unsampled:
    hands_random_on, is_remote = probed
    generate = tracer.id_generator.generate_span_id
    flags = {each: TraceFlags(each & _RANDOM if hands_random_on else 0) for each in range(256)}

    def make_context(parent: SpanContext) -> SpanContext:
        trace_id, _, _, of_parent, state, _ = parent
        if not state:
            state = DEFAULT_TRACE_STATE
        fields = (trace_id, generate(), is_remote, flags[of_parent], state, True)
        return make(SpanContext, fields)

    return lambda parent: LateSpan(parent, make_context)
