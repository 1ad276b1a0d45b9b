"""Operations other than processing: sends, receives, settlements, and reports.

`start_send` returns a running operation, which its caller ends when the outcome is known. The
others are recorded when they are over already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, SpanKind

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Action, Route, plan
from hopspan.model import OperationType
from hopspan.propagation import Codec, carries_context, emptied, inject_into, narrowed
from hopspan.telemetry.context import get_current
from hopspan.telemetry.enabled import is_suppressed
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

    from hopspan.model import Endpoint, Message, Outcome, OutgoingFields, SettledMessage, Settlement
    from hopspan.telemetry.instrumenter import Instrumenter


def start_send(
    instrumenter: Instrumenter, action: Action, outgoing: OutgoingFields, codec: Codec
) -> tuple[Operation | None, Any]:
    """Start a publish operation; return it with the headers that carry its context.

    The span is a child of what is current. A context that the message brings is replaced, or kept
    and linked to under `keep_context` (messaging spans, *Context propagation*). Returns None for an
    operation that is suppressed or ignored, with the headers as they were.
    """
    to, message, headers, _ = outgoing
    route = to if type(to) is Route else names.route(action, to)
    ambient = get_current()
    is_ignored = instrumenter.is_ignored
    if (
        not instrumenter.switch.on
        or (ambient and is_suppressed(ambient))
        or (is_ignored is not None and is_ignored(route.endpoint))
    ):
        return None, headers
    if instrumenter.config.keep_context and carries_context(codec, headers):
        return _start_kept(instrumenter, route, message, headers, codec)
    operation = Operation()
    if not operation.start_unsampled(instrumenter, route.plan, ambient):
        attributes = _outgoing_attributes(instrumenter, route, message, headers, codec)
        operation.start_span(instrumenter, route.plan, ambient, attributes)
        if operation.plan is None:
            return None, headers
    try:
        return operation, inject_into(codec, headers, ambient, instrumenter.allowed, operation.span)
    except Exception:  # noqa: BLE001 - better without context than not at all
        faults.report("injecting context into message headers")
        return operation, emptied(codec, headers, instrumenter.allowed)


def _outgoing_attributes(
    instrumenter: Instrumenter, route: Route, message: Message, headers: Any, codec: Codec
) -> dict[str, Any]:
    message_id, conversation_id, particular, key = message
    attributes = route.attributes.copy()
    if particular:
        attributes.update(particular)
    if message_id is not None:
        attributes[names.MESSAGE_ID] = message_id
    if conversation_id is not None:
        attributes[names.CONVERSATION_ID] = conversation_id
    if instrumenter.describes_more:
        about = headers, key
        return instrumenter.describe_outgoing(route.plan, attributes, about, codec, get_current())
    return attributes


def _start_kept(
    instrumenter: Instrumenter, route: Route, message: Message, headers: Any, codec: Codec
) -> tuple[Operation | None, Any]:
    """Start a publish whose message keeps the context that it brings, and is linked to it."""
    ambient = get_current()
    links = links_to_senders([headers], codec, instrumenter.config.trust)
    attributes = _outgoing_attributes(instrumenter, route, message, headers, codec)
    operation = Operation()
    operation.start(
        instrumenter, route.plan, (ambient, ambient, links), attributes, kind=SpanKind.CLIENT
    )
    if operation.plan is None:
        return None, headers
    if instrumenter.allowed is None:
        return operation, headers
    try:
        return operation, narrowed(codec, headers, instrumenter.allowed)
    except Exception:  # noqa: BLE001 - better without context than not at all
        faults.report("injecting context into message headers")
        return operation, emptied(codec, headers, instrumenter.allowed)


def start_receive(  # noqa: PLR0917 - none of them can be left out
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


def record_settle(  # noqa: PLR0917 - likewise
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


def start(  # noqa: PLR0917 - likewise
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
