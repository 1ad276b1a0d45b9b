"""Every attribute that leaves the process: published and current, or ours and told in the docs.

One operation of each kind, on the clients' own objects, says all that hopspan can say of RabbitMQ
and of Kafka; what it says is compared with the tables of the conventions' pages.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pika
import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.schemas import Schemas
from pika.spec import Basic

import hopspan
from hopspan import conventions as names
from hopspan.adapters import amqp, kafka_common
from hopspan.adapters.celery import messages as celery
from hopspan.adapters.kafka import producer as producers
from hopspan.model import Endpoint
from hopspan.propagation import MAPPING
from hopspan.telemetry import start_receive
from tests.unit.adapters.kafka.conftest import ORDERS, Consumer, polled, record
from tests.unit.adapters.kafka.test_sending import Answering, Producer
from tests.unit.adapters.pika.conftest import Connection, channel_of
from tests.unit.support import Telemetry, delivery

ROOT = Path(__file__).parent.parent


# -- names -----------------------------------------------------------------------------------------


def spelled() -> dict[str, str]:
    """Every name that the conventions' module and the adapters' own parts spell."""
    return {
        value: f"{module.__name__}.{name}"
        for module in (names, amqp, kafka_common, celery)
        for name, value in vars(module).items()
        if name.isupper()
        and isinstance(value, str)
        and value.startswith(("messaging.", "hopspan."))
    }


def published(module: Any) -> dict[str, str | None]:
    """The names of a published module, with the docstring of each."""
    body = ast.parse(inspect.getsource(module)).body
    found: dict[str, str | None] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        value = getattr(node, "value", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(value, ast.Constant):
            continue
        text = getattr(getattr(after, "value", None), "value", None)
        found[str(value.value)] = text.strip() if isinstance(text, str) else None
    return found


PUBLISHED = {**published(messaging_attributes), **published(messaging_metrics)}


NEWER = {"messaging.kafka.cluster.id"}
"""New in 1.44: older releases of the package do not know them."""


@pytest.mark.parametrize(
    "name", sorted(name for name in spelled() if name.startswith("messaging."))
)
def test_a_name_of_the_conventions_is_published_and_not_deprecated(name: str) -> None:
    if name in NEWER and not hasattr(Schemas, "V1_44_0"):
        return
    assert name in PUBLISHED
    assert not (PUBLISHED[name] or "").startswith("Deprecated")


def test_deprecated_names_are_told_apart() -> None:
    """The test above can fail."""
    assert (PUBLISHED["messaging.operation"] or "").startswith("Deprecated")


@pytest.mark.parametrize("name", sorted(name for name in spelled() if name.startswith("hopspan.")))
def test_a_name_of_our_own_is_told_in_the_docs(name: str) -> None:
    pages = [page for page in (ROOT / "docs").glob("*.md") if f"`{name}`" in page.read_text()]
    assert pages


# -- what is said of RabbitMQ ----------------------------------------------------------------------

COMMON = {
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.destination.name",
    "messaging.message.id",
    "messaging.message.conversation_id",
    "server.address",
    "server.port",
}
DELIVERED = {"messaging.rabbitmq.message.delivery_tag"}
NAMED = {"messaging.rabbitmq.destination.routing_key"}
DIED = {"hopspan.death.reason", "hopspan.death.queue", "hopspan.death.count"}
SETTLED = {"hopspan.settlement", "hopspan.settlement.reason"}

ALLOWED = {
    "send": COMMON | NAMED | {"messaging.destination.anonymous", "error.type"},
    "receive": COMMON | NAMED | DELIVERED | DIED,
    "process": COMMON
    | NAMED
    | DELIVERED
    | DIED
    | SETTLED
    | {
        "messaging.destination.anonymous",
        "messaging.batch.message_count",
        "error.type",
        "hopspan.attempt",
        "hopspan.redelivered",
        "hopspan.cancelled",
        "hopspan.links.omitted",
    },
    "settle": COMMON | DELIVERED | DIED | SETTLED,
}
"""What spans of RabbitMQ may say, by operation type (messaging spans and RabbitMQ page, 1.44)."""


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def channel(connection: Connection, telemetry: Telemetry) -> Any:
    return hopspan.wrap(channel_of(connection), **telemetry.settings)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def message(tag: int, *, redelivered: bool = False, routing_key: str = "created") -> Any:
    header = pika.BasicProperties(
        message_id="m1",
        correlation_id="c1",
        headers={
            "traceparent": f"00-{1:032x}-{tag:016x}-01",
            "x-delivery-count": 1,
            "x-death": [{"reason": "rejected", "queue": "orders", "count": 1}],
        },
    )
    return Basic.Deliver("c1", tag, redelivered, "orders", routing_key), header, b"body"


def everything(channel: Any, connection: Connection, telemetry: Telemetry) -> None:
    """One operation of each kind, with all that there is to say."""
    header = pika.BasicProperties(message_id="m1", correlation_id="c1")
    channel.basic_publish("orders", "created", b"body", header)
    channel.basic_publish("", "amq.gen-x", b"body")
    connection.error = ConnectionError("closed")
    with pytest.raises(ConnectionError):
        channel.basic_publish("orders", "created", b"body")
    connection.error = None

    rejecting = {"via": channel, "policy": hopspan.reject_on_error, **telemetry.settings}
    with (
        pytest.raises(ValueError, match="bad"),
        hopspan.process(message(1, redelivered=True), **rejecting),
    ):
        raise ValueError("bad")
    with (
        pytest.raises(GeneratorExit),
        hopspan.process(message(2, routing_key="amq.gen-x"), **rejecting),
    ):
        raise GeneratorExit
    with hopspan.process([message(3), message(4)], **rejecting):
        pass

    received = [delivery(endpoint=Endpoint("rabbitmq", "orders")) for _ in range(2)]
    instrumenter = telemetry.instrumenter()
    for batch in (received[:1], received):
        endpoint = received[0].endpoint
        start_receive(instrumenter, names.RECEIVE, endpoint, batch, MAPPING, 1_000).end()


@pytest.fixture
def said(
    channel: Any, connection: Connection, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> dict[str, set[str]]:
    """All attribute names, by operation type."""
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    everything(channel, connection, telemetry)
    found: dict[str, set[str]] = {}
    for span in telemetry.seen:
        kind = span.attributes["messaging.operation.type"]
        found.setdefault(kind, set()).update(span.attributes)
    return found


@pytest.mark.parametrize("kind", ["send", "process", "settle"])
def test_a_span_says_all_that_it_may_and_nothing_else(kind: str, said: dict[str, set[str]]) -> None:
    assert said[kind] == ALLOWED[kind]


def test_a_receive_of_several_says_their_number(said: dict[str, set[str]]) -> None:
    assert said["receive"] - ALLOWED["receive"] == {
        "messaging.batch.message_count",
        "hopspan.links.omitted",
    }


MEASURED = {
    "messaging.client.operation.duration": {
        "messaging.system",
        "messaging.operation.name",
        "messaging.operation.type",
        "messaging.destination.name",
        "server.address",
        "server.port",
        "error.type",
    },
    "messaging.process.duration": {
        "messaging.system",
        "messaging.operation.name",
        "messaging.destination.name",
        "server.address",
        "server.port",
        "error.type",
    },
    "messaging.client.sent.messages": {
        "messaging.system",
        "messaging.operation.name",
        "messaging.destination.name",
        "server.address",
        "server.port",
        "error.type",
    },
    "messaging.client.consumed.messages": {
        "messaging.system",
        "messaging.operation.name",
        "messaging.destination.name",
        "server.address",
        "server.port",
        "error.type",
    },
}
"""What metrics may say: nothing of a single message, nothing of ours (messaging metrics, 1.44)."""


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("metric", sorted(MEASURED))
def test_a_metric_says_all_that_it_may_and_nothing_else(metric: str, telemetry: Telemetry) -> None:
    found = {key for attributes, _ in telemetry.points(metric) for key in attributes}
    assert found == MEASURED[metric]


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("metric", sorted(MEASURED))
def test_a_metric_never_names_a_generated_destination(metric: str, telemetry: Telemetry) -> None:
    named = [
        attributes.get("messaging.destination.name", "")
        for attributes, _ in telemetry.points(metric)
    ]
    assert not any("amq.gen" in name for name in named)


def test_no_span_name_has_a_generated_destination(
    said: dict[str, set[str]], telemetry: Telemetry
) -> None:
    assert not any("amq.gen" in span.name for span in telemetry.seen)


def test_no_value_of_a_header_or_body_is_said(channel: Any, telemetry: Telemetry) -> None:
    """Privacy: neither bodies, nor arguments, nor header values."""
    header = pika.BasicProperties(headers={"card": "4111-1111"}, user_id="alice")
    channel.basic_publish("orders", "created", b"secret body", header)
    with hopspan.process(
        (Basic.Deliver("c1", 1, False, "orders", "created"), header, b"secret body"),
        via=channel,
        **telemetry.settings,
    ):
        pass
    said = repr([span.attributes for span in telemetry.seen])
    assert not any(secret in said for secret in ("4111", "secret", "alice", "guest"))


# -- what is said of Kafka -------------------------------------------------------------------------

KAFKA = {
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.destination.name",
    "messaging.client.id",
    "server.address",
    "server.port",
}
RECORD = {
    "messaging.destination.partition.id",
    "messaging.kafka.offset",
    "messaging.kafka.message.key",
    "messaging.kafka.message.tombstone",
}
CONSUMED = {"messaging.consumer.group.name", "messaging.kafka.cluster.id"}
SEVERAL = {"messaging.batch.message_count", "hopspan.links.omitted"}

SAID_OF_KAFKA = {
    "send": KAFKA | RECORD | {"error.type", "hopspan.unanswered"},
    "receive": KAFKA | RECORD | CONSUMED | SEVERAL,
    "process": KAFKA
    | RECORD
    | CONSUMED
    | SETTLED
    | SEVERAL
    | {"error.type", "hopspan.attempt", "hopspan.redelivered", "hopspan.cancelled"},
    "settle": (KAFKA | RECORD | CONSUMED | SETTLED | {"messaging.batch.message_count"})
    - {"messaging.kafka.message.key"},
}
"""What spans of Kafka may say, by operation type (messaging spans and Kafka page, 1.44). Of a settle
span's destination, the partition."""


@pytest.fixture
def said_of_kafka(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """All attribute names, by operation type: all that there is to say, once."""
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    settings: Any = {"message_key": True, **telemetry.settings}

    producer = hopspan.wrap(Answering(), **settings)
    producer.send("orders", None, b"k", partition=0)
    producer.error = ConnectionError("gone")
    producer.send("orders", b"v")
    producer.error = None
    hopspan.wrap(Producer(), **settings).send("orders", b"v")
    producers._unanswered._leave()

    consumer = Consumer()
    cluster = type("Cluster", (), {"cluster_id": "abc"})
    consumer._client = type("Client", (), {"cluster": cluster})
    hopspan.wrap(consumer, **settings)
    consumer._subscription.assignment = {ORDERS: "a"}
    headers = [("traceparent", f"00-{1:032x}-{2:016x}-01".encode())]
    dead = hopspan.dead_letter("dlt", producer=producer)
    policy = hopspan.requeue_times(1, then=dead)
    for _ in range(2):
        (first,) = polled(consumer, record(10, value=None, headers=headers))
        with (
            pytest.raises(ValueError, match="bad"),
            hopspan.process(first, via=consumer, policy=policy),
        ):
            raise ValueError("bad")
    several = polled(consumer, *(record(offset, headers=headers) for offset in (11, 12)))
    with hopspan.process(several, via=consumer, policy=hopspan.ack_always):
        pass
    (last,) = polled(consumer, record(13, headers=headers))
    with hopspan.process(last, via=consumer, policy=hopspan.ack_always):
        consumer.close()

    found: dict[str, set[str]] = {}
    for span in telemetry.seen:
        kind = span.attributes["messaging.operation.type"]
        found.setdefault(kind, set()).update(span.attributes)
    return found


@pytest.mark.parametrize("kind", sorted(SAID_OF_KAFKA))
def test_a_span_of_kafka_says_all_that_it_may_and_nothing_else(
    kind: str, said_of_kafka: dict[str, set[str]]
) -> None:
    assert said_of_kafka[kind] == SAID_OF_KAFKA[kind]


@pytest.mark.usefixtures("said_of_kafka")
@pytest.mark.parametrize("metric", sorted(MEASURED))
def test_a_metric_of_kafka_says_nothing_of_a_single_record(
    metric: str, telemetry: Telemetry
) -> None:
    found = {key for attributes, _ in telemetry.points(metric) for key in attributes}
    assert found - MEASURED[metric] <= {"messaging.consumer.group.name"}


def test_no_key_header_or_value_of_kafkas_is_said(telemetry: Telemetry) -> None:
    """Privacy: unless the application asks for its keys."""
    producer = hopspan.wrap(Answering(), **telemetry.settings)
    producer.send("orders", b"secret body", b"alice", [("card", b"4111-1111")])
    consumer = hopspan.wrap(Consumer(), **telemetry.settings)
    fields: Any = {"key": b"alice", "value": b"secret", "headers": [("card", b"4111-1111")]}
    (first,) = polled(consumer, record(10, **fields))
    with hopspan.process(first, via=consumer):
        pass
    said = repr([span.attributes for span in telemetry.seen])
    assert len(telemetry.spans) == 3
    assert not any(secret in said for secret in ("4111", "secret", "alice"))
