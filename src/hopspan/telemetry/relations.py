"""Relations of an operation to the messages that it is about: parent, links, baggage."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, SpanContext

from hopspan import conventions as names
from hopspan.propagation import Codec, extract_from, senders_of
from hopspan.propagation.w3c import SPAN_KEY

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from hopspan.config import Config
    from hopspan.model import Endpoint


Relation = tuple[Context, Context, Sequence[Link]]
"""Where a span starts from: the parent is the span that is current in the first context; the second
holds what is carried around the span, baggage above all; then its links."""

Links = tuple[Link, ...]

_SDK_DEFAULT = 128


# -- one message -----------------------------------------------------------------------------------


def relate(config: Config, headers: Any, codec: Codec, base: Context) -> Relation:
    """Relate the processing of one message to it, by `correlation` and `trust`."""
    if config.correlation == "none":
        return base, base, ()
    if not config.trust:
        return _relate_untrusted(config, headers, codec, base)
    carried = parent = extract_from(codec, headers, base)
    if carried is base:
        return (_without_parent(base) if config.correlation == "link" else base), base, ()
    links: Sequence[Link] = ()
    ambient: Any = base.get(SPAN_KEY)
    remote: Any = carried.get(SPAN_KEY)
    if remote is not ambient:
        links = (Link(remote.get_span_context()),)
        if ambient is not None and config.correlation == "auto" and _is_valid(ambient):
            parent = trace.set_span_in_context(ambient, carried)
    if config.correlation == "link":
        parent = _without_parent(carried)
    return parent, carried, links


def _is_valid(span: Span) -> bool:
    return span.get_span_context().is_valid


def _relate_untrusted(config: Config, headers: Any, codec: Codec, base: Context) -> Relation:
    """Relate to an untrusted sender: link only; take no parent, sampling decision or baggage."""
    links = links_to_senders([headers], codec, trust=False)
    return (base if config.correlation == "auto" else _without_parent(base)), base, links


def _without_parent(context: Context) -> Context:
    """The context without a parent."""
    return trace.set_span_in_context(INVALID_SPAN, context)


def with_baggage_of(config: Config, headers: Any, codec: Codec, base: Context) -> Context:
    """`base` with the baggage of a message, for a span that is not the message's child."""
    if config.correlation == "none" or not config.trust:
        return base
    return extract_from(codec, headers, base)


# -- many messages ---------------------------------------------------------------------------------


class Members(Sequence[Any]):
    """Deliveries that are built on demand: of most batches nobody asks for a single one.

    An operation asks for what concerns all of them in one call each. A list does as well.
    """

    __slots__ = ()

    @abstractmethod
    def endpoints(self) -> Collection[Endpoint]:
        """Where they are from, each endpoint once."""

    @abstractmethod
    def headers(self, most: int) -> Sequence[Any]:
        """The headers of the newest, at most so many."""

    @abstractmethod
    def uncounted(self) -> int:
        """How many of them no receive operation has counted."""


def common_endpoint(deliveries: Sequence[Any]) -> Endpoint:
    """The endpoint of all deliveries; one without a destination where they differ."""
    endpoints: Collection[Endpoint] = (
        deliveries.endpoints()
        if isinstance(deliveries, Members)
        else dict.fromkeys(each.endpoint for each in deliveries)
    )
    first = next(iter(endpoints))
    if len(endpoints) == 1:
        return first
    return first._replace(destination="", template=None, anonymous=False, temporary=False)


def messages_to_count(deliveries: Sequence[Any]) -> int:
    """How many of them no receive operation has counted."""
    if isinstance(deliveries, Members):
        return deliveries.uncounted()
    return sum(not each.counted for each in deliveries)


def relate_batch(
    config: Config, deliveries: Sequence[Any], codec: Codec, base: Context
) -> tuple[dict[str, Any], Relation]:
    """Relate a batch, with its attributes: a message is never the parent (*Batches*)."""
    if config.correlation == "none":
        return {names.BATCH_MESSAGE_COUNT: len(deliveries)}, (base, base, ())
    attributes, links = batch_links(deliveries, codec, trust=config.trust)
    parent = _without_parent(base) if config.correlation == "link" else base
    return attributes, (parent, base, links)


def batch_links(
    deliveries: Sequence[Any], codec: Codec, *, trust: bool = True
) -> tuple[dict[str, Any], Links]:
    """Attributes of a span about several messages, and its links to them."""
    attributes: dict[str, Any] = {names.BATCH_MESSAGE_COUNT: len(deliveries)}
    most = link_limit()
    headers: Sequence[Any]
    if isinstance(deliveries, Members):
        headers = deliveries.headers(most)
    else:
        headers = [each.headers for each in deliveries[max(0, len(deliveries) - most) :]]
    if len(headers) < len(deliveries):
        attributes[names.LINKS_OMITTED] = len(deliveries) - len(headers)
    return attributes, _links(headers, codec, trust)


def link_limit() -> int:
    """How many links the SDK keeps: the newest. It pays for the others all the same."""
    text = os.environ.get("OTEL_SPAN_LINK_COUNT_LIMIT", "")
    return int(text) if text.isdecimal() else _SDK_DEFAULT


def links_to_senders(headers: Sequence[Any], codec: Codec, trust: bool = True) -> Links:
    """Links to the senders that these headers name.

    A sender that is not trusted is linked to by its ids alone: its flags and its `tracestate` are
    for its own sampler.
    """
    return _links(_newest(headers), codec, trust)


def _links(headers: Sequence[Any], codec: Codec, trust: bool) -> Links:
    spans = senders_of(codec, headers, trust=trust)
    return tuple(map(Link, spans if trust else map(_ids_only, spans)))


def _ids_only(span: SpanContext) -> SpanContext:
    return SpanContext(span.trace_id, span.span_id, is_remote=True)


def links_to_spans(spans: Sequence[SpanContext]) -> Links:
    """Links to the newest of these spans."""
    return tuple(Link(span) for span in _newest(spans) if span.is_valid)


def _newest(many: Sequence[Any]) -> Sequence[Any]:
    return many[max(0, len(many) - link_limit()) :]
