"""Names: every literal is the published one, and what is computed is in the tables."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes as published
from opentelemetry.semconv._incubating.metrics import messaging_metrics as published_metrics
from opentelemetry.semconv.attributes import error_attributes, exception_attributes
from opentelemetry.trace import SpanKind

from hopspan import conventions as names
from hopspan.adapters import amqp, kafka_common
from hopspan.conventions import Action, plan
from hopspan.model import Endpoint, MessageInfo, OperationType, Settlement, Verdict

ATTRIBUTES = {
    "SYSTEM": "MESSAGING_SYSTEM",
    "OPERATION_NAME": "MESSAGING_OPERATION_NAME",
    "OPERATION_TYPE": "MESSAGING_OPERATION_TYPE",
    "DESTINATION_NAME": "MESSAGING_DESTINATION_NAME",
    "DESTINATION_TEMPLATE": "MESSAGING_DESTINATION_TEMPLATE",
    "DESTINATION_ANONYMOUS": "MESSAGING_DESTINATION_ANONYMOUS",
    "DESTINATION_TEMPORARY": "MESSAGING_DESTINATION_TEMPORARY",
    "PARTITION_ID": "MESSAGING_DESTINATION_PARTITION_ID",
    "CLIENT_ID": "MESSAGING_CLIENT_ID",
    "CONSUMER_GROUP": "MESSAGING_CONSUMER_GROUP_NAME",
    "MESSAGE_ID": "MESSAGING_MESSAGE_ID",
    "CONVERSATION_ID": "MESSAGING_MESSAGE_CONVERSATION_ID",
    "BATCH_MESSAGE_COUNT": "MESSAGING_BATCH_MESSAGE_COUNT",
}

METRICS = {
    "OPERATION_DURATION": "MESSAGING_CLIENT_OPERATION_DURATION",
    "PROCESS_DURATION": "MESSAGING_PROCESS_DURATION",
    "SENT_MESSAGES": "MESSAGING_CLIENT_SENT_MESSAGES",
    "CONSUMED_MESSAGES": "MESSAGING_CLIENT_CONSUMED_MESSAGES",
}

PUBLISH = Action("publish", OperationType.SEND)
ACK = Action("ack", OperationType.SETTLE)
ENDPOINT = Endpoint("rabbitmq", "orders")


def test_every_incubating_literal_is_in_the_tables_here() -> None:
    """A literal that nobody compares could be misspelled."""
    literals = {
        name
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and value.startswith("messaging.")
    }
    assert literals == {*ATTRIBUTES, *METRICS}


@pytest.mark.parametrize(("ours", "theirs"), ATTRIBUTES.items())
def test_attribute_names_are_the_published_ones(ours: str, theirs: str) -> None:
    assert getattr(names, ours) == getattr(published, theirs)


@pytest.mark.parametrize(("ours", "theirs"), METRICS.items())
def test_metric_names_are_the_published_ones(ours: str, theirs: str) -> None:
    assert getattr(names, ours) == getattr(published_metrics, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (amqp.SYSTEM, published.MessagingSystemValues.RABBITMQ.value),
        (amqp.ROUTING_KEY, published.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY),
        (amqp.DELIVERY_TAG, published.MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG),
        (kafka_common.SYSTEM, published.MessagingSystemValues.KAFKA.value),
        (kafka_common.OFFSET, published.MESSAGING_KAFKA_OFFSET),
        (kafka_common.KEY, published.MESSAGING_KAFKA_MESSAGE_KEY),
        (kafka_common.TOMBSTONE, published.MESSAGING_KAFKA_MESSAGE_TOMBSTONE),
        # New in 1.44; older releases of the package do not know it.
        (
            kafka_common.CLUSTER_ID,
            getattr(published, "MESSAGING_KAFKA_CLUSTER_ID", "messaging.kafka.cluster.id"),
        ),
        (names.ERROR_TYPE, error_attributes.ERROR_TYPE),
        (names.EXCEPTION_TYPE, exception_attributes.EXCEPTION_TYPE),
        (names.EXCEPTION_MESSAGE, exception_attributes.EXCEPTION_MESSAGE),
        (names.EXCEPTION_STACKTRACE, exception_attributes.EXCEPTION_STACKTRACE),
    ],
)
def test_other_names_are_the_published_ones(ours: str, theirs: str) -> None:
    assert ours == theirs


@pytest.mark.parametrize(
    "type_", [each for each in OperationType if each is not OperationType.INTERNAL]
)
def test_operation_types_are_published_ones(type_: OperationType) -> None:
    assert type_.value in {each.value for each in published.MessagingOperationTypeValues}


def test_our_own_names_are_ours() -> None:
    """What the conventions have no word for is under `hopspan.`."""
    own = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and value.startswith("hopspan.")
    }
    assert own == {
        "hopspan.attempt",
        "hopspan.redelivered",
        "hopspan.unanswered",
        "hopspan.settlement",
        "hopspan.settlement.reason",
        "hopspan.cancelled",
        "hopspan.death.reason",
        "hopspan.death.queue",
        "hopspan.death.count",
        "hopspan.links.omitted",
        "hopspan.sampling.reason",
        "hopspan.spans.dropped",
    }


def test_the_schema_is_the_version_that_the_names_are_of() -> None:
    assert names.SCHEMA_URL == "https://opentelemetry.io/schemas/1.44.0"


def test_the_boundaries_are_the_advised_ones() -> None:
    assert names.DURATION_BOUNDARIES == (
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (OperationType.SEND, SpanKind.PRODUCER),
        (OperationType.RECEIVE, SpanKind.CLIENT),
        (OperationType.PROCESS, SpanKind.CONSUMER),
        (OperationType.SETTLE, SpanKind.CLIENT),
    ],
)
def test_the_kind_follows_from_the_type(type_: OperationType, kind: SpanKind) -> None:
    assert Plan("act", type_).kind == kind


def Plan(name: str, type_: OperationType, **fields: Any) -> names.Plan:  # noqa: N802 - a constructor
    return names.Plan(Action(name, type_), ENDPOINT._replace(**fields))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "publish orders"),
        ({"destination": ""}, "publish"),
        ({"anonymous": True}, "publish"),
        ({"temporary": True}, "publish"),
        ({"template": "orders-{tenant}"}, "publish orders-{tenant}"),
        ({"template": "orders-{tenant}", "anonymous": True}, "publish orders-{tenant}"),
        ({"template": ""}, "publish orders"),
    ],
)
def test_the_span_name_has_a_destination_of_low_cardinality_or_none(
    fields: dict[str, Any], name: str
) -> None:
    assert Plan("publish", OperationType.SEND, **fields).name == name


BASE = {
    "messaging.system": "rabbitmq",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": "orders",
}


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({}, BASE),
        ({"anonymous": True}, {**BASE, "messaging.destination.anonymous": True}),
        ({"temporary": True}, {**BASE, "messaging.destination.temporary": True}),
        ({"template": "o-{n}"}, {**BASE, "messaging.destination.template": "o-{n}"}),
        ({"group": "billing"}, {**BASE, "messaging.consumer.group.name": "billing"}),
        (
            {"server_address": "broker", "server_port": 5672},
            {**BASE, "server.address": "broker", "server.port": 5672},
        ),
        (
            {"destination": ""},
            {key: value for key, value in BASE.items() if key != "messaging.destination.name"},
        ),
    ],
)
def test_attributes_at_span_start(fields: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Conditional ones are there only when they apply, booleans only when true."""
    assert Plan("process", OperationType.PROCESS, **fields).attributes == attributes


def test_a_settle_span_does_not_say_what_only_a_destination_can_be() -> None:
    """Anonymous and temporary are not defined for settle spans (RabbitMQ page)."""
    planned = Plan("ack", OperationType.SETTLE, anonymous=True, temporary=True)
    assert planned.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "ack",
        "messaging.operation.type": "settle",
        "messaging.destination.name": "orders",
    }


COUNTED = {
    "messaging.system": "rabbitmq",
    "messaging.operation.name": "act",
    "messaging.destination.name": "orders",
}
UNNAMED = {"messaging.system": "rabbitmq", "messaging.operation.name": "act"}


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({}, COUNTED),
        ({"destination": ""}, UNNAMED),
        ({"anonymous": True}, UNNAMED),
        ({"temporary": True}, UNNAMED),
        ({"template": "o-{n}"}, {**UNNAMED, "messaging.destination.template": "o-{n}"}),
        ({"group": "billing"}, {**COUNTED, "messaging.consumer.group.name": "billing"}),
        (
            {"server_address": "broker", "server_port": 5672},
            {**COUNTED, "server.address": "broker", "server.port": 5672},
        ),
    ],
)
def test_metrics_name_low_cardinality_destinations_only(
    fields: dict[str, Any], attributes: dict[str, Any]
) -> None:
    assert dict(Plan("act", OperationType.PROCESS, **fields).counts) == attributes


def test_sent_messages_have_no_consumer_group() -> None:
    assert dict(Plan("act", OperationType.SEND, group="billing").counts) == COUNTED


@pytest.mark.parametrize(
    ("type_", "extra"),
    [
        (OperationType.PROCESS, {}),
        (OperationType.SEND, {"messaging.operation.type": "send"}),
        (OperationType.RECEIVE, {"messaging.operation.type": "receive"}),
        (OperationType.SETTLE, {"messaging.operation.type": "settle"}),
    ],
)
def test_the_operation_duration_tells_the_type_and_the_process_duration_does_not(
    type_: OperationType, extra: dict[str, str]
) -> None:
    assert dict(Plan("act", type_).durations) == {**COUNTED, **extra}


@pytest.mark.parametrize("type_", list(OperationType))
def test_the_exception_event_is_named_after_the_type(type_: OperationType) -> None:
    assert Plan("act", type_).exception_event == f"messaging.{type_.value}.exception"


def test_a_plan_is_made_once() -> None:
    assert plan(PUBLISH, ENDPOINT) is plan(PUBLISH, Endpoint("rabbitmq", "orders"))


def test_plans_of_different_actions_differ() -> None:
    assert plan(PUBLISH, ENDPOINT).name != plan(ACK, ENDPOINT).name


def test_the_cache_of_plans_is_bounded() -> None:
    """Reply queues are endless."""
    for number in range(plan.cache_info().maxsize or 0):
        plan(PUBLISH, Endpoint("rabbitmq", f"reply-{number}"))
    plan(PUBLISH, Endpoint("rabbitmq", "one more"))
    assert plan.cache_info().currsize == 1024


@pytest.mark.parametrize(
    ("message", "attributes"),
    [
        (MessageInfo(), {}),
        (MessageInfo(id="m1"), {"messaging.message.id": "m1"}),
        (MessageInfo(id=""), {"messaging.message.id": ""}),
        (MessageInfo(conversation_id="c1"), {"messaging.message.conversation_id": "c1"}),
        (MessageInfo(attributes={"x": 1}), {"x": 1}),
    ],
)
def test_what_a_span_says_of_its_message(message: MessageInfo, attributes: dict[str, Any]) -> None:
    assert names.message_attributes(message) == attributes


KEYED = MessageInfo(attributes={"x": 1}, key=("messaging.kafka.message.key", "k1"))


@pytest.mark.parametrize(
    ("message", "with_key", "attributes"),
    [
        (KEYED, False, {"x": 1}),
        (KEYED, True, {"x": 1, "messaging.kafka.message.key": "k1"}),
        (MessageInfo(key=("key", "")), True, {"key": ""}),
        (MessageInfo(), True, {}),
    ],
)
def test_a_key_is_the_applications_and_only_told_on_request(
    message: MessageInfo, with_key: bool, attributes: dict[str, Any]
) -> None:
    assert names.message_attributes(message, with_key=with_key) == attributes


def test_a_key_is_not_told_unless_asked() -> None:
    assert names.message_attributes(KEYED) == {"x": 1}


def test_a_settle_span_tells_the_partition_and_no_systems_word_for_a_destination() -> None:
    attributes = {
        "messaging.destination.partition.id": "3",
        "messaging.rabbitmq.destination.routing_key": "created",
        "messaging.kafka.offset": 7,
        "messaging.message.id": "m1",
    }
    assert names.settled_attributes(attributes) == {
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7,
        "messaging.message.id": "m1",
    }


def test_a_message_keeps_its_attributes_to_itself() -> None:
    """What a span adds must not appear on the next one of the same message."""
    message = MessageInfo(id="m1", attributes={"x": 1})
    names.message_attributes(message)
    assert message.attributes == {"x": 1}


@pytest.mark.parametrize(
    ("settlement", "attributes"),
    [
        (Settlement(Verdict.ACK), {"hopspan.settlement": "ack"}),
        (
            Settlement(Verdict.REJECT, "failed: ValueError"),
            {
                "hopspan.settlement": "reject",
                "hopspan.settlement.reason": "failed: ValueError",
            },
        ),
        (Settlement(Verdict.REQUEUE, "", "dlt"), {"hopspan.settlement": "requeue"}),
    ],
)
def test_the_verdict_and_its_reason(settlement: Settlement, attributes: dict[str, Any]) -> None:
    assert names.settlement_attributes(settlement) == attributes


class Outer:
    class OrderError(Exception):
        pass


class MainError(Exception):
    __module__ = "__main__"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), "ValueError"),
        (Outer.OrderError(), f"{__name__}.Outer.OrderError"),
        (MainError(), "MainError"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), "UnicodeDecodeError"),
    ],
)
def test_the_error_type_is_the_canonical_class_name(error: BaseException, kind: str) -> None:
    assert names.error_type(error) == kind


# -- routes ----------------------------------------------------------------------------------------


def test_a_route_is_a_plan_with_what_every_message_of_it_says() -> None:
    planned = plan(PUBLISH, ENDPOINT)
    route = names.Route(planned, {"messaging.rabbitmq.destination.routing_key": "created"})
    assert (route.plan, route.endpoint) == (planned, ENDPOINT)
    assert route.particular == {"messaging.rabbitmq.destination.routing_key": "created"}
    assert route.attributes == {**planned.attributes, **route.particular}


def test_a_route_without_more_says_what_its_plan_says() -> None:
    route = names.Route(plan(PUBLISH, ENDPOINT))
    assert (route.particular, route.attributes) == ({}, plan(PUBLISH, ENDPOINT).attributes)


def test_what_is_added_to_a_route_changes_no_plan() -> None:
    """A plan is shared by all routes of an endpoint, and routes by all of their messages."""
    planned = plan(PUBLISH, ENDPOINT)
    before = dict(planned.attributes)
    route = names.Route(planned, {"x": 1})
    route.attributes["messaging.message.id"] = "m1"
    assert planned.attributes == before
    assert names.Route(planned).attributes == before
