"""W3C trace context and baggage in their plain form, read and written without a propagator.

Nearly every message carries them so, and a propagator spends most of its time on what is hardly
ever met. Used only where the configured propagator is the API's default. Rules of this module: what
is not plain is answered by None, and is for the propagator; what is answered is what the propagator
would say, which a property test compares.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any

from opentelemetry.baggage import set_baggage
from opentelemetry.context import Context
from opentelemetry.trace import (
    DEFAULT_TRACE_STATE,
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from hopspan.model import make
from hopspan.propagation.baggage import KEY, leaving, surely_fits
from hopspan.propagation.headers import GETTER, SETTER, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.propagators.textmap import TextMapPropagator

    from hopspan.propagation.baggage import Names

TRACEPARENT, TRACESTATE, BAGGAGE = "traceparent", "tracestate", "baggage"
FIELDS = frozenset({TRACEPARENT, TRACESTATE, BAGGAGE})
IDENTITY = frozenset({TRACEPARENT, TRACESTATE})

SPAN_KEY = next(iter(set_span_in_context(INVALID_SPAN, Context())))
"""Where the API keeps the current span in a context."""

_LENGTH, _LENGTH_OF_TRACE_ID = 55, 32
_number = int.from_bytes
_WRITTEN_FLAGS = tuple(f"{each:02x}" for each in range(256))
_FLAGS = {told: TraceFlags(each) for each, told in enumerate(_WRITTEN_FLAGS)}
_EVERY_FLAG = tuple(_FLAGS.values())
_fields = Struct(">BQQQB").iter_unpack
_MOST_CHARACTERS = 1024
"""Of baggage that is remembered: with the number of entries, the bound of what the caches hold."""
_NONE: Mapping[str, Any] = {}


def is_laid_out(kind: Any) -> bool:
    """Whether a class of span contexts is still the tuple that can be made without its constructor.

    That would look at both ids again, which takes a quarter of the time of reading them.
    """
    parts = (2, 3, False, TraceFlags(4), DEFAULT_TRACE_STATE, True)  # all of them different
    made = kind(*parts[:4])
    return isinstance(made, tuple) and tuple(made) == parts


IS_LAID_OUT = is_laid_out(SpanContext)


def sender(fields: Mapping[str, Any]) -> SpanContext | None:
    """The span that sent a message with these fields, whose names are in lower case."""
    return None if TRACESTATE in fields else parse_traceparent(fields.get(TRACEPARENT))


def parse_traceparent(value: Any) -> SpanContext | None:
    """The span that a `traceparent` of the plain form names; None for every other value."""
    if type(value) is bytes:  # as the values of Kafka's headers are
        value = value.decode("latin-1")  # what is no ASCII then is no number
    elif type(value) is not str:
        value = text(value)
    if type(value) is not str or len(value) != _LENGTH:
        return None
    try:
        version, of_trace, of_span, of_flags = value.split("-")
        # Half the time that a regular expression takes.
        trace_id = _number(unhexlify(of_trace), "big")
        span_id, flags = _number(unhexlify(of_span), "big"), _FLAGS[of_flags]
    except (ValueError, KeyError):
        return None
    # Flags are two digits, or the lookup fails: so the remaining length is the span id's.
    if version != "00" or len(of_trace) != _LENGTH_OF_TRACE_ID:
        return None
    if not trace_id or not span_id or value != value.lower():  # `unhexlify` takes capitals as well
        return None
    if not IS_LAID_OUT:
        return SpanContext(trace_id, span_id, True, flags)
    return make(SpanContext, (trace_id, span_id, True, flags, DEFAULT_TRACE_STATE, True))


def parse_traceparents(values: Sequence[Any]) -> list[SpanContext] | None:
    """The spans that many a `traceparent` names, in bytes; None where one is not of the plain form.

    Together, because most of the time goes into calls. What names no valid span is left out.
    """
    count = len(values)
    try:
        joined = b"".join(values)
        if {*map(len, values)} - {_LENGTH} or joined != joined.lower() or not IS_LAID_OUT:
            return None
        told = joined[0::_LENGTH], joined[1::_LENGTH], joined[2::_LENGTH]
        if told != (b"0" * count, b"0" * count, b"-" * count) or joined.count(b"-") != 3 * count:
            return None
        if joined[35::_LENGTH] != told[2] or joined[52::_LENGTH] != told[2]:
            return None
        fields = _fields(unhexlify(joined.translate(None, b"-")))
    except (TypeError, ValueError):
        return None
    return [
        make(
            SpanContext,
            (high << 64 | low, span_id, True, _EVERY_FLAG[flags], DEFAULT_TRACE_STATE, True),
        )
        for _, high, low, span_id, flags in fields
        if span_id and (high or low)
    ]


def entries(value: Any, propagator: TextMapPropagator) -> Mapping[str, Any] | None:
    """The entries in a header's value; empty where there is none."""
    told = text(value)
    if told is None or len(told) > _MOST_CHARACTERS:
        return None
    return _read(told, propagator)


_is_plain = re.compile(
    r"[\w.*-]+=[\w.*%+:/@~!-]*(?:,[\w.*-]+=[\w.*%+:/@~!-]*){,63}", re.ASCII
).fullmatch
"""Nothing in it that a propagator would have to complain about, each time that it comes."""


@lru_cache(maxsize=256)
def _read(told: str, propagator: TextMapPropagator) -> Mapping[str, Any] | None:
    """A service meets the same few again and again. Nobody changes what a context holds."""
    if _is_plain(told) is None:
        return None
    read: Any = propagator.extract({BAGGAGE: told}, Context(), GETTER).get(KEY)
    return _NONE if read is None else read


def traceparent_of(span: SpanContext) -> str:
    """The `traceparent` of a valid span."""
    # By way of bytes: formatting integers takes twice as long.
    of_trace, of_span = span[0].to_bytes(16, "big").hex(), span[1].to_bytes(8, "big").hex()
    flags = span[3]
    # More than a byte is no flag of W3C's, but a context can be made with it.
    written = _WRITTEN_FLAGS[flags] if flags < len(_WRITTEN_FLAGS) else f"{flags:02x}"
    return f"00-{of_trace}-{of_span}-{written}"


def fields_of(
    span: SpanContext, context: Context, allowed: Names | None, propagator: TextMapPropagator
) -> dict[str, str] | None:
    """What a message is to carry of a span, and of the baggage in a context that may leave."""
    _, _, _, _, state, is_valid = span
    if state is not DEFAULT_TRACE_STATE and state:
        return None
    fields: dict[str, str] = {}
    if is_valid:
        fields[TRACEPARENT] = traceparent_of(span)
    elif span != INVALID_SPAN_CONTEXT:
        return None
    if KEY in context:
        told = _told(context[KEY], allowed, propagator)
        if told is None:
            return None
        if told:
            fields[BAGGAGE] = told
    return fields


def _told(baggage: Any, allowed: Names | None, propagator: TextMapPropagator) -> str | None:
    for key, value in baggage.items():
        if type(key) is not str or type(value) is not str:
            return None
    if not surely_fits(baggage):
        return None
    return _written(tuple(baggage.items()), allowed, propagator)


@lru_cache(maxsize=256)
def _written(
    baggage: tuple[tuple[str, str], ...], allowed: Names | None, propagator: TextMapPropagator
) -> str:
    context = Context()
    for key, value in baggage:
        context = set_baggage(key, value, context)
    written: dict[str, str] = {}
    propagator.inject(written, leaving(context, allowed), SETTER)
    return written.get(BAGGAGE, "")
