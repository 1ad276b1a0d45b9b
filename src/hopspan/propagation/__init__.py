"""How context rides in message headers: replaced, never appended, never in the caller's own object.

The only module that writes a header. Works through the globally configured propagator (W3C trace
context and baggage by default; B3 or Jaeger where configured); what the default one would read or
write in its plainest form is done directly (`hopspan.propagation.w3c`). Reading never raises.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from opentelemetry.baggage import get_all, set_baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import (
    DEFAULT_TRACE_STATE,
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hopspan import faults
from hopspan.model import ConfigurationError
from hopspan.propagation import w3c
from hopspan.propagation.baggage import KEY, Names, encodable, leaving, with_only
from hopspan.propagation.headers import (
    ASK,
    GETTER,
    MAPPING,
    PAIRS,
    SETTER,
    Codec,
    Stale,
    codec_of,
    folded,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from opentelemetry.propagators.textmap import TextMapPropagator

__all__ = [
    "ASK",
    "MAPPING",
    "PAIRS",
    "Codec",
    "carries_context",
    "check_propagators",
    "context_fields",
    "extract",
    "injected",
    "plain_traceparent",
    "sender_of",
]

try:
    from opentelemetry.propagate import get_global_textmap
except Exception as _error:  # noqa: BLE001 - it reads OTEL_PROPAGATORS while it is imported
    # Kept until a face is bound, so that `hopspan doctor` can say it.
    _unusable = f"OTEL_PROPAGATORS={os.environ.get('OTEL_PROPAGATORS')!r} is not valid: {_error}"

    def get_global_textmap() -> TextMapPropagator:
        """There is none.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(_unusable)


def check_propagators() -> None:
    """Whether `OTEL_PROPAGATORS` can be used, as OpenTelemetry finds when it is imported.

    Raises:
        ConfigurationError: it names a propagator that is misspelt or not installed.
    """
    get_global_textmap()


_PROBE = "hopspan-probe"


class _Configured:
    """What is known of a propagator. Learnt once, for it is asked for at every message."""

    def __init__(self, itself: TextMapPropagator) -> None:
        self.itself = itself
        self.is_default = type(itself) is CompositePropagator and _parts(itself) == _DEFAULT

    @cached_property
    def fields(self) -> frozenset[str]:
        """The headers that it writes, in lower case."""
        return frozenset(field.lower() for field in self.itself.fields)

    @cached_property
    def stale(self) -> frozenset[str]:
        """What is not to be left of an earlier hop."""
        return self.fields if self.is_default else Stale(self.fields, _beginnings(self.itself))


_DEFAULT = (TraceContextTextMapPropagator, W3CBaggagePropagator)


def _parts(composite: Any) -> tuple[type, ...]:
    """What it is made of; private to the API: where that is missing, nothing is known."""
    return tuple(map(type, getattr(composite, "_propagators", ())))


def _beginnings(propagator: TextMapPropagator) -> tuple[str, ...]:
    """How the headers begin of a propagator that has one for each entry of baggage, as Jaeger's.

    It does not count them among its fields.
    """
    span = NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1)))
    probe = set_baggage(_PROBE, "x", set_span_in_context(span, Context()))
    names = [name.lower() for name in _written(propagator, probe)]
    found = tuple(name[: -len(_PROBE)] for name in names if name.endswith(_PROBE))
    return tuple(each for each in found if each)


_learnt: _Configured | None = None


def _configured() -> _Configured:
    global _learnt  # noqa: PLW0603 - read at every message
    propagator, learnt = get_global_textmap(), _learnt
    if learnt is None or learnt.itself is not propagator:
        learnt = _learnt = _Configured(propagator)
    return learnt


def carries_only_context() -> bool:
    """Whether the configured propagator writes nothing but what a context holds. Never raises."""
    try:
        return _configured().is_default
    except Exception:  # noqa: BLE001 - said where it is to write something
        return False


def context_fields() -> frozenset[str]:
    """The headers that the configured propagator writes, in lower case."""
    learnt = _learnt
    if learnt is None or learnt.itself is not get_global_textmap():
        learnt = _configured()
    return learnt.fields


# -- writing ---------------------------------------------------------------------------------------


def inject_into(
    codec: Codec,
    headers: Any,
    context: Context,
    allowed: Names | None = None,
    span: Span | None = None,
) -> Any:
    """A copy of `headers` that carries `context`, or `headers` itself where nothing is to change.

    The propagator's fields are removed first, in any letter case, so that a message that is
    forwarded or retried never keeps the `tracestate` or `baggage` of an earlier hop.

    Args:
        codec: How to write them.
        headers: The message's own.
        context: What they are to carry; what of its baggage may not leave stays behind.
        allowed: The names of entries that may leave; None for all.
        span: To be carried instead of the context's own.
    """
    configured = _learnt
    if configured is None or configured.itself is not get_global_textmap():
        configured = _configured()
    fresh = None
    if configured.is_default:
        if span is not None and KEY not in context:
            # Nearly always: a span, and no baggage around it.
            identity = span.get_span_context()
            if identity[5] and (identity[4] is DEFAULT_TRACE_STATE or not identity[4]):
                return codec.with_traceparent(headers, w3c.traceparent_of(identity))
        about = (get_current_span(context) if span is None else span).get_span_context()
        try:
            fresh = w3c.fields_of(about, context, allowed, configured.itself)
        except Exception:  # noqa: BLE001 - an entry that cannot be written: see below
            fresh = None
    if fresh is None:
        context = context if span is None else set_span_in_context(span, context)
        fresh = _freshly_written(configured.itself, context, allowed)
    stale = configured.stale if configured.is_default else _stale(configured, fresh, allowed)
    if not fresh and not _holds(codec, headers, stale):
        return headers
    return codec.replaced(headers, stale, fresh)


def _freshly_written(
    propagator: TextMapPropagator, context: Context, allowed: Names | None
) -> dict[str, str]:
    try:
        kept = leaving(context, allowed) if KEY in context else context
        return _written(propagator, kept)
    except Exception:  # noqa: BLE001 - an entry that cannot be written is the only one that stays
        kept = with_only(context, encodable(get_all(context)))
        return _written(propagator, leaving(kept, allowed))


def _written(propagator: TextMapPropagator, context: Context) -> dict[str, str]:
    written: dict[str, str] = {}
    propagator.inject(written, context, SETTER)
    return written


def _stale(
    configured: _Configured, fresh: Collection[str], allowed: Names | None
) -> frozenset[str]:
    """What is not to be left of an earlier hop: also baggage that we know no propagator of."""
    if configured.is_default:
        return configured.stale
    names = configured.fields | {key.lower() for key in fresh}
    beginnings = getattr(configured.stale, "beginnings", ())
    return Stale(names if allowed is None else names | {w3c.BAGGAGE}, beginnings)


def emptied(codec: Codec, headers: Any, allowed: Names | None) -> Any:
    """Headers where no context could be written: without any where an allow-list is to hold."""
    try:
        if allowed is None:
            return headers
        return codec.replaced(headers, _stale(_configured(), (), allowed), {})
    except Exception:  # noqa: BLE001 - neither a propagator nor headers that can be read
        return headers


def narrowed(codec: Codec, headers: Any, allowed: Names) -> Any:
    """A copy of headers that keep the context they have, with what of its baggage may leave.

    What cannot be read of it does not leave either.
    """
    return inject_into(codec, headers, extract_from(codec, headers, Context()), allowed)


def _holds(codec: Codec, headers: Any, keys: frozenset[str]) -> bool:
    return bool(headers) and any(folded(key) in keys for key, _ in codec.items(headers))


def carries_context(codec: Codec, headers: Any) -> bool:
    """Whether a message holds a field of the configured propagator already."""
    return _holds(codec, headers, context_fields())


# -- reading ---------------------------------------------------------------------------------------


def plain_traceparent(codec: Codec, headers: Any) -> Any:
    """The value of a message's `traceparent`; None where its headers name no sender.

    `ASK` where only `extract_from` can tell: another propagator than the default one is configured,
    or the headers hold more than a plain `traceparent`. Never raises.
    """
    if not headers:
        return None
    try:
        learnt = _learnt
        if learnt is None or learnt.itself is not get_global_textmap():
            learnt = _configured()
        return codec.traceparent(headers) if learnt.is_default else ASK
    except Exception:  # noqa: BLE001 - a container or a propagator that fails
        return ASK


def sender_of(traceparent: Any) -> SpanContext:
    """The sender that a `traceparent` names, as the default propagator reads it. Never raises."""
    found = w3c.parse_traceparent(traceparent)
    if found is not None:
        return found
    context = extract_from(MAPPING, {w3c.TRACEPARENT: traceparent}, Context())
    return get_current_span(context).get_span_context()


def extract_from(  # noqa: PLR0911 - the shortest way is the first
    codec: Codec, headers: Any, context: Context, *, trust: bool = True
) -> Context:
    """`context` with what the headers carry; unchanged for headers that are absent or malformed.

    Never raises: the application's handler runs whatever a producer has written into its headers.

    Args:
        codec: How to read them.
        headers: A message's.
        context: What to add to.
        trust: False leaves W3C's baggage unread: the propagator would log each entry that it finds
            malformed. Another propagator's is for the caller to leave out.
    """
    try:
        if not headers:
            return context
        configured = _configured()
        if not configured.is_default:
            every = ((folded(key), value) for key, value in codec.items(headers))
            found = {name: value for name, value in every if isinstance(name, str)}
            if not trust:
                found.pop(w3c.BAGGAGE, None)
            return configured.itself.extract(found, context, GETTER)
        found = codec.found(headers, w3c.FIELDS if trust else w3c.IDENTITY)
        if not found:
            return context
        span = w3c.sender(found)
        if span is not None:
            if w3c.BAGGAGE not in found:
                return Context({**context, w3c.SPAN_KEY: NonRecordingSpan(span)})
            if KEY not in context:
                about = w3c.entries(found[w3c.BAGGAGE], configured.itself)
                if about is not None:
                    read = {**context, w3c.SPAN_KEY: NonRecordingSpan(span)}
                    return Context({**read, KEY: about} if about else read)
        return configured.itself.extract(found, context, GETTER)
    except Exception:  # noqa: BLE001 - a propagator that raises must not reach the message path
        faults.report("reading the context in message headers", level=logging.WARNING)
        return context


def senders_of(codec: Codec, many: Iterable[Any], *, trust: bool = True) -> list[SpanContext]:
    """The senders of messages with these headers; those that do not say are left out."""
    plainly, many = carries_only_context(), [*many]
    if plainly:
        spans = _plain_senders(codec, many)
        if spans is not None:
            return spans
    senders = []
    for headers in many:
        span = None
        if plainly:
            try:
                span = w3c.sender(codec.found(headers, w3c.IDENTITY)) if headers else None
            except Exception:  # noqa: BLE001 - nor is this for us to read
                span = None
        if span is None:
            span = _asked(codec, headers, trust)
        if span is not None:
            senders.append(span)
    return senders


def _plain_senders(codec: Codec, many: Sequence[Any]) -> list[SpanContext] | None:
    """The senders of messages of which each has a plain `traceparent` in bytes, or none."""
    try:
        values = codec.traceparents(many)
        return None if values is None else w3c.parse_traceparents(values)
    except Exception:  # noqa: BLE001 - a container that fails: the others may still be read
        return None


def _asked(codec: Codec, headers: Any, trust: bool) -> SpanContext | None:
    context = extract_from(codec, headers, Context(), trust=trust)
    span = get_current_span(context).get_span_context()
    return span if span.is_valid else None


def injected(headers: Any, context: Context, allowed: Names | None = None) -> Any:
    """`inject_into` for headers of either shape; always another object.

    Raises:
        TypeError: they are neither a mapping nor a list.
    """
    if headers is not None and not isinstance(headers, Mapping | list | tuple):
        kind = type(headers).__name__
        raise TypeError(f"inject() takes a mapping or a list of pairs, not {kind}")
    codec = codec_of(headers)
    carried = inject_into(codec, headers, context, allowed)
    return codec.replaced(carried, frozenset(), {}) if carried is headers else carried


def extract(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> Context:
    """Read trace context and baggage from message headers into a new, otherwise empty, context.

    Accepts any letter case, `str`, `bytes` and `bytearray` values, and takes the last of
    duplicates. Malformed headers give an empty context; it never raises.

    The result can be attached (`opentelemetry.context.attach`) or given to
    `start_span(context=...)`. Beware that an empty context is falsy: test it with `is`, never with
    `or`.
    """
    return extract_from(codec_of(headers), headers, Context())
