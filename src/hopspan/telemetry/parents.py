"""Parents, links and baggage: how an operation relates to the messages that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link

from hopspan import conventions as names
from hopspan.propagation import Codec, extract_from
from hopspan.telemetry.links import batch, links_to_senders
from hopspan.w3c import SPAN_KEY

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from hopspan.config import Config
    from hopspan.model import Delivery


Relation = tuple[Context, Context, Sequence[Link]]
"""What a span starts from: it is the child of the span that is current in the first context; in the
second is what holds around it, baggage above all; and its links."""


def of_message(config: Config, headers: Any, codec: Codec, base: Context) -> Relation:
    """How processing one message relates to it, by `correlation` and `trust`."""
    if config.correlation == "none":
        return base, base, ()
    if not config.trust:
        return _of_stranger(config, headers, codec, base)
    carried = parent = extract_from(codec, headers, base)
    if carried is base:
        return (_rooted(base) if config.correlation == "link" else base), base, ()
    links: Sequence[Link] = ()
    ambient: Any = base.get(SPAN_KEY)
    remote: Any = carried.get(SPAN_KEY)
    if remote is not ambient:
        links = (Link(remote.get_span_context()),)
        if ambient is not None and config.correlation == "auto" and _is_valid(ambient):
            parent = trace.set_span_in_context(ambient, carried)
    if config.correlation == "link":
        parent = _rooted(carried)
    return parent, carried, links


def _is_valid(span: Span) -> bool:
    return span.get_span_context().is_valid


def _of_stranger(config: Config, headers: Any, codec: Codec, base: Context) -> Relation:
    """A link and nothing else: it is for nobody outside to say what we sample, or what we know."""
    links = links_to_senders([headers], codec, trust=False)
    return (base if config.correlation == "auto" else _rooted(base)), base, links


def _rooted(context: Context) -> Context:
    """Without a parent."""
    return trace.set_span_in_context(INVALID_SPAN, context)


def of_batch(
    config: Config, deliveries: Sequence[Delivery], codec: Codec, base: Context
) -> tuple[dict[str, Any], Relation]:
    """What a span about several messages says of them: never a parent from one (*Batches*)."""
    if config.correlation == "none":
        return {names.BATCH_MESSAGE_COUNT: len(deliveries)}, (base, base, ())
    attributes, links = batch(deliveries, codec, trust=config.trust)
    parent = _rooted(base) if config.correlation == "link" else base
    return attributes, (parent, base, links)


def with_baggage_of(config: Config, headers: Any, codec: Codec, base: Context) -> Context:
    """`base` with the baggage of a message, for a span that is not the message's child."""
    if config.correlation == "none" or not config.trust:
        return base
    return extract_from(codec, headers, base)
