"""Parents, links and baggage: how an operation relates to the messages that it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Link

from hopspan import conventions as names
from hopspan.propagation import Codec, extract_from
from hopspan.telemetry.links import batch, links_to_senders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from hopspan.config import Config
    from hopspan.model import Delivery


class Relation(NamedTuple):
    """What a span starts from."""

    parent: Context
    """It is the child of the span that is current here."""
    carried: Context
    """What holds around it: baggage, above all."""
    links: Sequence[Link] = ()


def of_message(config: Config, headers: Any, codec: Codec, base: Context) -> Relation:
    """How processing one message relates to it, by `correlation` and `trust`."""
    if config.correlation == "none":
        return Relation(base, base)
    if not config.trust:
        return _of_stranger(config, headers, codec, base)
    carried = extract_from(codec, headers, base)
    ambient, remote = trace.get_current_span(base), trace.get_current_span(carried)
    links: Sequence[Link] = ()
    parent = carried
    if remote is not ambient:
        links = (Link(remote.get_span_context()),)
        if config.correlation == "auto" and ambient.get_span_context().is_valid:
            parent = trace.set_span_in_context(ambient, carried)
    if config.correlation == "link":
        parent = _rooted(carried)
    return Relation(parent, carried, links)


def _of_stranger(config: Config, headers: Any, codec: Codec, base: Context) -> Relation:
    """A link and nothing else: it is for nobody outside to say what we sample, or what we know."""
    links = links_to_senders([headers], codec, trust=False)
    return Relation(base if config.correlation == "auto" else _rooted(base), base, links)


def _rooted(context: Context) -> Context:
    """Without a parent."""
    return trace.set_span_in_context(INVALID_SPAN, context)


def of_batch(
    config: Config, deliveries: Sequence[Delivery], codec: Codec, base: Context
) -> tuple[dict[str, Any], Relation]:
    """What a span about several messages says of them: never a parent from one (*Batches*)."""
    if config.correlation == "none":
        return {names.BATCH_MESSAGE_COUNT: len(deliveries)}, Relation(base, base)
    attributes, links = batch(deliveries, codec, trust=config.trust)
    parent = _rooted(base) if config.correlation == "link" else base
    return attributes, Relation(parent, base, links)


def with_baggage_of(config: Config, headers: Any, codec: Codec, base: Context) -> Context:
    """`base` with the baggage of a message, for a span that is not the message's child."""
    if config.correlation == "none" or not config.trust:
        return base
    return extract_from(codec, headers, base)
