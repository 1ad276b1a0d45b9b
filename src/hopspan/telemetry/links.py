"""Links from an operation to its messages: one a message, and no more than the SDK keeps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Link, SpanContext

from hopspan import conventions as names
from hopspan.propagation import Codec, senders_of
from hopspan.telemetry.several import headers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hopspan.model import Delivery

Links = tuple[Link, ...]

_SDK_DEFAULT = 128


def most() -> int:
    """How many the SDK keeps: the newest; it pays for the others all the same."""
    text = os.environ.get("OTEL_SPAN_LINK_COUNT_LIMIT", "")
    return int(text) if text.isdecimal() else _SDK_DEFAULT


def links_to_senders(headers: Sequence[Any], codec: Codec, trust: bool = True) -> Links:
    """Links to what sent the messages with these headers, where they say so.

    A sender that is not trusted is linked to by its ids alone: its flags and its `tracestate` are
    for its own sampler.
    """
    spans = senders_of(codec, _newest(headers), trust=trust)
    return tuple(map(Link, spans if trust else map(_bare, spans)))


def _bare(span: SpanContext) -> SpanContext:
    return SpanContext(span.trace_id, span.span_id, is_remote=True)


def links_to_spans(spans: Sequence[SpanContext]) -> Links:
    """Links to the newest of these spans."""
    return tuple(Link(span) for span in _newest(spans) if span.is_valid)


def batch(
    deliveries: Sequence[Delivery], codec: Codec, *, trust: bool = True
) -> tuple[dict[str, Any], Links]:
    """What a span about several messages says of them, and its links to them."""
    attributes: dict[str, Any] = {names.BATCH_MESSAGE_COUNT: len(deliveries)}
    newest = headers_of(deliveries, most())
    if len(newest) < len(deliveries):
        attributes[names.LINKS_OMITTED] = len(deliveries) - len(newest)
    return attributes, links_to_senders(newest, codec, trust=trust)


def _newest(many: Sequence[Any]) -> Sequence[Any]:
    return many[max(0, len(many) - most()) :]
