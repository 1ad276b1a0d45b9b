"""Attribute names, span names and metric names of the messaging conventions, version 1.44.

The only module that spells `messaging.*` and `error.type`. Stable names and the schema URL come
from the published package; the incubating `messaging.*` names are literals, because that part of
the package is private and may change in any release; a test compares every literal with the
published ones.

Rules of this module: it names, it computes names from values, and it caches what it computed. It
never touches a span.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind

from hopspan.model import OperationType, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hopspan.model import Endpoint, Message, Settlement

__all__ = [
    "CONSUMED_MESSAGES",
    "DURATION_BOUNDARIES",
    "ERROR_TYPE",
    "EXCEPTION_MESSAGE",
    "EXCEPTION_STACKTRACE",
    "EXCEPTION_TYPE",
    "METRICS",
    "OPERATION_DURATION",
    "PROCESS_DURATION",
    "SCHEMA_URL",
    "SENT_MESSAGES",
    "Action",
    "Plan",
    "Route",
]

# Older releases of the package do not know this version yet; the data we emit is the same.
SCHEMA_URL: str = getattr(
    getattr(Schemas, "V1_44_0", None), "value", "https://opentelemetry.io/schemas/1.44.0"
)

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
DESTINATION_TEMPLATE = "messaging.destination.template"
DESTINATION_ANONYMOUS = "messaging.destination.anonymous"
DESTINATION_TEMPORARY = "messaging.destination.temporary"
PARTITION_ID = "messaging.destination.partition.id"
CLIENT_ID = "messaging.client.id"
CONSUMER_GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
BATCH_MESSAGE_COUNT = "messaging.batch.message_count"

# Our own, for what the conventions have no word for.
ATTEMPT = "hopspan.attempt"
REDELIVERED = "hopspan.redelivered"
UNANSWERED = "hopspan.unanswered"
SETTLEMENT = "hopspan.settlement"
SETTLEMENT_REASON = "hopspan.settlement.reason"
CANCELLED = "hopspan.cancelled"
DEATH_REASON = "hopspan.death.reason"
DEATH_QUEUE = "hopspan.death.queue"
DEATH_COUNT = "hopspan.death.count"
LINKS_OMITTED = "hopspan.links.omitted"
SAMPLING_REASON = "hopspan.sampling.reason"
SPANS_DROPPED = "hopspan.spans.dropped"
METRIC_OVERFLOW = "otel.metric.overflow"

OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
SENT_MESSAGES = "messaging.client.sent.messages"
CONSUMED_MESSAGES = "messaging.client.consumed.messages"
METRICS = frozenset({OPERATION_DURATION, PROCESS_DURATION, SENT_MESSAGES, CONSUMED_MESSAGES})
DURATION_BOUNDARIES = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip

_KINDS = {
    OperationType.SEND: SpanKind.PRODUCER,
    OperationType.RECEIVE: SpanKind.CLIENT,
    OperationType.PROCESS: SpanKind.CONSUMER,
    OperationType.SETTLE: SpanKind.CLIENT,
    OperationType.INTERNAL: SpanKind.INTERNAL,
}
_STATUS_MATTERS = frozenset({OperationType.PROCESS, OperationType.INTERNAL})

_VERDICTS = {each: each.value for each in Verdict}  # `value` of an Enum is a slow property

_NONE: Mapping[str, Any] = {}

MetricAttributes = tuple[tuple[str, "str | int"], ...]


class Action(NamedTuple):
    """An operation as its system calls it: `publish` is an operation of type *send*."""

    name: str
    type: OperationType


RECEIVE = Action("receive", OperationType.RECEIVE)
PROCESS = Action("process", OperationType.PROCESS)


class Plan:
    """All that one action on one endpoint will say every time, computed once.

    Thread-safe: nothing in it changes after construction. Compared by identity.
    """

    __slots__ = (
        "action",
        "attributes",
        "counts",
        "duration_attributes",
        "durations",
        "endpoint",
        "exception_event",
        "kind",
        "name",
        "status_matters",
    )  # fmt: skip

    def __init__(self, action: Action, endpoint: Endpoint) -> None:
        self.action: Action = action
        self.endpoint: Endpoint = endpoint
        self.kind: SpanKind = _KINDS[action.type]
        self.name: str = _span_name(action, endpoint)
        self.attributes: dict[str, Any] = _base_attributes(action, endpoint)
        self.counts: MetricAttributes = _metric_attributes(action, endpoint)
        self.durations: MetricAttributes = self.counts
        if action.type is not OperationType.PROCESS:
            self.durations = (*self.counts, (OPERATION_TYPE, action.type.value))
        self.duration_attributes: dict[str, Any] = dict(self.durations)
        self.exception_event = f"messaging.{action.type.value}.exception"
        self.status_matters: bool = action.type in _STATUS_MATTERS
        """Whether anything depends on the status that the application sets on the span."""


@lru_cache(maxsize=1024)
def plan(action: Action, endpoint: Endpoint) -> Plan:
    """The plan of an action on an endpoint. Bounded: reply queues and per-user keys are endless."""
    return Plan(action, endpoint)


class Route:
    """Messages of one origin or destination: their plan, and all that each of them will say.

    Thread-safe: nothing in it changes after construction.
    """

    __slots__ = ("attributes", "particular", "plan")

    def __init__(self, planned: Plan, more: Mapping[str, Any] = _NONE) -> None:
        self.plan: Plan = planned
        self.particular: Mapping[str, Any] = more
        """The attributes of the messages that their plan does not have."""
        self.attributes: dict[str, Any] = {**planned.attributes, **more}

    @property
    def endpoint(self) -> Endpoint:
        """Where these messages go to or come from."""
        return self.plan.endpoint


@lru_cache(maxsize=1024)
def route(action: Action, endpoint: Endpoint) -> Route:
    """The route of messages that say nothing more than their plan. Bounded, as plans are."""
    return Route(plan(action, endpoint))


def _low_cardinality_destination(endpoint: Endpoint) -> str | None:
    """The first of template and name that may appear in a span name (messaging spans, *Name*)."""
    if endpoint.template:
        return endpoint.template
    if endpoint.anonymous or endpoint.temporary:
        return None
    return endpoint.destination or None


def _span_name(action: Action, endpoint: Endpoint) -> str:
    destination = _low_cardinality_destination(endpoint)
    return f"{action.name} {destination}" if destination else action.name


def _base_attributes(action: Action, endpoint: Endpoint) -> dict[str, Any]:
    """What samplers may look at, in one dict that is given at span start."""
    if not endpoint.system:  # no message at all
        return {}
    attributes: dict[str, Any] = {
        SYSTEM: endpoint.system,
        OPERATION_NAME: action.name,
        OPERATION_TYPE: action.type.value,
        DESTINATION_NAME: endpoint.destination or None,
        DESTINATION_TEMPLATE: endpoint.template,
        DESTINATION_ANONYMOUS: endpoint.anonymous or None,
        DESTINATION_TEMPORARY: endpoint.temporary or None,
        CONSUMER_GROUP: endpoint.group,
        SERVER_ADDRESS: endpoint.server_address,
        SERVER_PORT: endpoint.server_port,
    }
    if action.type is OperationType.INTERNAL:
        del attributes[OPERATION_TYPE]
    if action.type is OperationType.SETTLE:  # not defined for settle spans (RabbitMQ page)
        attributes[DESTINATION_ANONYMOUS] = attributes[DESTINATION_TEMPORARY] = None
    return {key: value for key, value in attributes.items() if value is not None}


def _metric_attributes(action: Action, endpoint: Endpoint) -> MetricAttributes:
    """What all four metrics share, low-cardinality only (messaging metrics)."""
    named = not endpoint.anonymous and not endpoint.temporary and not endpoint.template
    attributes: dict[str, str | int | None] = {
        SYSTEM: endpoint.system,
        OPERATION_NAME: action.name,
        DESTINATION_NAME: (endpoint.destination or None) if named else None,
        DESTINATION_TEMPLATE: endpoint.template,
        CONSUMER_GROUP: None if action.type is OperationType.SEND else endpoint.group,
        SERVER_ADDRESS: endpoint.server_address,
        SERVER_PORT: endpoint.server_port,
    }
    return tuple((key, value) for key, value in attributes.items() if value is not None)


def message_attributes(
    message: Message, base: Mapping[str, Any] = _NONE, *, with_key: bool = False
) -> dict[str, Any]:
    """What a span says about its single message, over what every span of its plan says."""
    message_id, conversation_id, particular, key = message
    attributes = {**base, **particular}
    if with_key and key is not None:
        attributes[key[0]] = key[1]
    if message_id is not None:
        attributes[MESSAGE_ID] = message_id
    if conversation_id is not None:
        attributes[CONVERSATION_ID] = conversation_id
    return attributes


def header_attribute(header: str) -> str:
    """The attribute of a message header, whose values it holds as an array of strings.

    The messaging conventions have no word for it yet. This is how those of HTTP name theirs, and
    how other implementations name a message's.
    """
    return f"messaging.header.{header}"


def settled_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a settle span about its message, without a system's destinations."""
    return {
        key: value
        for key, value in attributes.items()
        if ".destination." not in key or key == PARTITION_ID
    }


def settlement_attributes(settlement: Settlement) -> dict[str, Any]:
    """The verdict, on a process span that is still open or on a settle span."""
    attributes: dict[str, Any] = {SETTLEMENT: _VERDICTS[settlement.verdict]}
    if settlement.reason:
        attributes[SETTLEMENT_REASON] = settlement.reason
    return attributes


def error_type(error: BaseException) -> str:
    """The canonical class name of an exception, for `error.type` (recording errors)."""
    kind = type(error)
    module = kind.__module__
    return (
        kind.__qualname__ if module in {"builtins", "__main__"} else f"{module}.{kind.__qualname__}"
    )
