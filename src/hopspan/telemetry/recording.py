"""Operations other than processing: sends, receives, settlements, and reports.

`start_send` returns a running operation, which its caller ends when the outcome is known. The others
are recorded when they are over already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Link, SpanContext, SpanKind

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Action, plan
from hopspan.model import OperationType
from hopspan.propagation import Codec, carries_context, emptied, inject_into, narrowed
from hopspan.telemetry.context import get_current
from hopspan.telemetry.operation import Operation
from hopspan.telemetry.relations import (
    batch_links,
    common_endpoint,
    links_to_senders,
    links_to_spans,
    with_baggage_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context

    from hopspan.model import Endpoint, OutgoingFields, Outcome, SettledMessage, Settlement
    from hopspan.telemetry.instrumenter import Instrumenter

_NO_LINKS: Sequence[Link] = ()


def start_send(
    instrumenter: Instrumenter, action: Action, outgoing: OutgoingFields, codec: Codec
) -> tuple[Operation, Any]:
    """Start a publish operation; return it with the headers that carry its context.

    The span is a child of what is current. A context that the message brings is replaced, or kept
    and linked to under `keep_context` (messaging spans, *Context propagation*).
    """
    endpoint, message, headers, _ = outgoing
    ambient, links, kind = get_current(), _NO_LINKS, None
    kept = instrumenter.config.keep_context and carries_context(codec, headers)
    if kept:
        kind = SpanKind.CLIENT
        links = links_to_senders([headers], codec, instrumenter.config.trust)
    planned = plan(action, endpoint)
    attributes = names.message_attributes(message, planned.attributes)
    if instrumenter.describes_more:
        about = headers, message[3]
        attributes = instrumenter.describe_outgoing(planned, attributes, about, codec, ambient)
    operation = Operation()
    operation.start(instrumenter, planned, (ambient, ambient, links), attributes, kind=kind)
    if operation.plan is None or (kept and instrumenter.allowed is None):
        return operation, headers
    try:
        if kept and instrumenter.allowed is not None:
            return operation, narrowed(codec, headers, instrumenter.allowed)
        return operation, inject_into(
            codec, headers, ambient, instrumenter.allowed, operation.span
        )
    except Exception:  # noqa: BLE001 - better without context than not at all
        faults.report("injecting context into message headers")
        return operation, emptied(codec, headers, instrumenter.allowed)


def start_receive(
    instrumenter: Instrumenter,
    action: Action,
    endpoint: Endpoint,
    deliveries: Sequence[Any],
    codec: Codec,
    began: int,
) -> Operation:
    """Start a receive operation that began at a time (ns since the epoch) and brought messages.

    Child of what is current, linked to every message, never parented by one.
    """
    config = instrumenter.config
    ambient = carried = get_current()
    about, links = batch_links(deliveries, codec, trust=config.trust)
    if len(deliveries) != 1:
        relation = (ambient, ambient, links)
        attributes = about if deliveries else {}
        return start(instrumenter, action, endpoint, relation, attributes, began)
    delivery = deliveries[0]
    if config.baggage_attributes or config.baggage_metrics:
        carried = with_baggage_of(config, delivery.headers, codec, ambient)
    planned = plan(action, endpoint)
    attributes = planned.attributes.copy()
    delivery.describe_message(attributes)
    if instrumenter.describes_more:
        attributes = instrumenter.describe(planned, attributes, delivery, codec, carried)
    operation = Operation()
    operation.start(instrumenter, planned, (ambient, carried, links), attributes, began)
    return operation


def record_settle(
    instrumenter: Instrumenter,
    name: str,
    settlement: Settlement,
    messages: Sequence[SettledMessage],
    outcome: Outcome,
    timing: tuple[int, float],
    *,
    inside: Context | None = None,
    of: Sequence[SpanContext] = (),
    endpoint: Endpoint | None = None,
    always: bool = False,
) -> None:
    """Record a settlement that was sent, or has failed, if the settings find it notable.

    Args:
        instrumenter: The settings that hold.
        name: The system's word for it: `ack`, `nack`.
        settlement: What was sent.
        messages: The messages that it settled.
        outcome: Whether it could be sent.
        timing: When it began (ns since the epoch) and how long it took (s).
        inside: The context of the process span that it is part of; the current one when omitted.
        of: Process spans that are over already; they are linked to.
        endpoint: Where the messages came from; looked up in them when omitted.
        always: Whether it is notable whatever its verdict.
    """
    notable = always or outcome.failed
    is_recorded = instrumenter.enabled.records_settlement(settlement.verdict, notable=notable)
    if not is_recorded or (messages and not instrumenter.not_ignored(messages)):
        return
    attributes = names.settlement_attributes(settlement)
    if len(messages) == 1:
        attributes.update(names.settled_attributes(messages[0].attributes))
    elif messages:
        attributes[names.BATCH_MESSAGE_COUNT] = len(messages)
    context = get_current() if inside is None else inside
    operation = start(
        instrumenter,
        Action(name, OperationType.SETTLE),
        endpoint or common_endpoint(messages),
        (context, context, links_to_spans(of) if of else ()),
        attributes,
        timing[0],
    )
    operation.call_on_start(None)
    operation.end(outcome, seconds=timing[1])


def start_internal(
    instrumenter: Instrumenter,
    name: str,
    endpoint: Endpoint,
    attributes: dict[str, Any],
    *,
    parent: Context | None = None,
    of: Sequence[SpanContext] = (),
) -> Operation:
    """Start a span of kind INTERNAL: no messaging operation, so it counts in no metric.

    Args:
        instrumenter: The settings that hold.
        name: Its name: `run`, `lost`.
        endpoint: The endpoint that it is about.
        attributes: What differs from one to the next.
        parent: The current context when omitted.
        of: Spans that it reports on; they are linked to.
    """
    context = get_current() if parent is None else parent
    action = Action(name, OperationType.INTERNAL)
    relation = (context, context, links_to_spans(of))
    return start(instrumenter, action, endpoint, relation, attributes)


def start(
    instrumenter: Instrumenter,
    action: Action,
    endpoint: Endpoint,
    relation: Any,
    about: dict[str, Any],
    start_time: int | None = None,
) -> Operation:
    """Start an operation on no message, or on several, that these attributes are about."""
    planned = plan(action, endpoint)
    attributes = instrumenter.describe_several(planned, about, relation[1])
    operation = Operation()
    operation.start(instrumenter, planned, relation, attributes, start_time)
    return operation
