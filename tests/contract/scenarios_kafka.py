"""What only Kafka has: lists of headers, futures, offsets, seeks, partitions that come and go."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError, RequestTimedOutError
from kafka.serializer import Deserializer, Serializer
from kafka.structs import OffsetAndMetadata
from opentelemetry import trace

import hopspan
from hopspan import Commits, PolicyError, Verdict
from tests.contract.client import Message, raises, succeeds
from tests.contract.kafka_client import JOINING, KafkaClient
from tests.contract.scenarios_refusals import refusal
from tests.contract.suite import FACES, needs, over
from tests.contract.telemetry import Measured, Span, silence

VALID = f"00-{'a' * 32}-{'b' * 16}-01"
NO = ValueError("no stock")
PATIENCE = 60.0
"""Seconds for a rebalance, which some brokers take their time for."""
SENDERS = ("wrapped", "instrumented")


def _span_id(pairs: list[tuple[str, Any]]) -> int:
    """Whose context is in the broker's bytes; there is exactly one."""
    (value,) = [value for key, value in pairs if key.lower() == "traceparent"]
    return int(value.decode("ascii").split("-")[2], 16)


def _span_ids(client: KafkaClient, name: str) -> list[int]:
    return [span.context.span_id for span in client.telemetry.named(name) if span.context]


def _names(client: KafkaClient) -> list[str]:
    """Really all spans, by name, in the order in which they began."""
    return [span.name for span in client.telemetry.recorded()]


def _commits(client: KafkaClient) -> list[Any]:
    return client.telemetry.named(f"commit {client.queue}")


def _acked(client: KafkaClient, record: Any) -> None:
    with client.process(record, policy=hopspan.ack_always):
        pass


# -- headers, in the broker's bytes ----------------------------------------------------------------


@over(face=SENDERS)
def headers_are_replaced_and_never_appended(client: KafkaClient) -> None:
    given = [
        ("traceparent", VALID.encode()),
        ("color", b"red"),
        ("TraceParent", b"00-stale"),
        ("tracestate", b"old=1"),
        ("color", b"blue"),
    ]
    before = list(given)
    for _ in range(2):
        client.producer.send(client.queue, b"order", None, given).get(PATIENCE)
    assert before == given
    for pairs, sent in zip(client.headers(), _span_ids(client, client.publishes), strict=True):
        assert sent == _span_id(pairs)
        assert [("color", b"red"), ("color", b"blue")] == pairs[:-1]


@over(face=SENDERS)
def two_concurrent_sends_may_share_one_list(client: KafkaClient) -> None:
    shared = [("color", b"red"), ("traceparent", VALID.encode())]
    producers = [client._traced(client.new_producer()) for _ in range(2)]
    together = threading.Barrier(2)

    def send(producer: Any) -> None:
        for _ in range(20):
            together.wait()
            producer.send(client.queue, b"order", headers=shared).get(PATIENCE)

    for each in [client.in_thread(send, producer) for producer in producers]:
        each.result()
    assert [("color", b"red"), ("traceparent", VALID.encode())] == shared
    found = client.headers()
    assert sorted(map(_span_id, found)) == sorted(_span_ids(client, client.publishes))
    assert [2] * 40 == list(map(len, found))


@over(face=FACES)
def headers_that_are_forwarded_through_three_hops_have_one_context_at_each(
    client: KafkaClient,
) -> None:
    topics = [client.queue, client.backstage.topic(), client.backstage.topic()]
    client.send(b"order", [("color", b"red")])
    for topic, following in zip(topics, [*topics[1:], None], strict=True):
        client.queue = topic
        client.consumer.assign([client.place])

        def forward(message: Message, following: Any = following) -> None:
            if following:
                client.producer.send(following, b"order", headers=message.native.headers).get(
                    PATIENCE
                )

        client.handle(forward)
    for topic in topics:
        (pairs,) = client.headers(topic)
        assert _span_ids(client, f"send {topic}") == [_span_id(pairs)]
        assert ["color", "traceparent"] == [key for key, _ in pairs]
    expected, parent = [], None
    for topic in topics:
        send = f"send {topic}"
        expected += [
            Span(send, "producer", parent=parent),
            Span(f"process {topic}", "consumer", parent=send, links=(send,)),
        ]
        parent = f"process {topic}"
    found = [span for span in client.telemetry.spans() if span.kind in {"producer", "consumer"}]
    assert expected == found


Send = Callable[..., Any]

WAYS: dict[str, Callable[[Send, str], Any]] = {
    "absent": lambda send, topic: send(topic, b"order"),
    "None, by position": lambda send, topic: send(topic, b"order", None, None),
    "None, by name": lambda send, topic: send(topic, b"order", headers=None),
    "empty": lambda send, topic: send(topic, b"order", headers=[]),
    "list, by position": lambda send, topic: send(topic, b"order", None, [("color", b"red")]),
    "list, by name": lambda send, topic: send(topic, value=b"order", headers=[("color", b"red")]),
    "all by name": lambda send, topic: send(
        topic=topic, value=b"order", key=b"k", headers=[("color", b"red")], partition=0
    ),
    "all by position": lambda send, topic: send(
        topic, b"order", b"k", [("color", b"red")], 0, 1_700_000_000_000
    ),
    "tuple": lambda send, topic: send(topic, b"order", headers=(("color", b"red"),)),
    "empty tuple": lambda send, topic: send(topic, b"order", headers=()),
    "dict": lambda send, topic: send(topic, b"order", headers={"color": b"red"}),
    "iterator": lambda send, topic: send(topic, b"order", headers=iter([("color", b"red")])),
    "pairs that are lists": lambda send, topic: send(topic, b"order", headers=[["color", b"red"]]),
    "text": lambda send, topic: send(topic, b"order", headers=[("color", "red")]),
    "None as a value": lambda send, topic: send(topic, b"order", headers=[("color", None)]),
    "bytes as a key": lambda send, topic: send(topic, b"order", headers=[(b"color", b"red")]),
    "three in a pair": lambda send, topic: send(topic, b"order", headers=[("color", b"red", 1)]),
    "no pairs": lambda send, topic: send(topic, b"order", headers=["color"]),
    "False": lambda send, topic: send(topic, b"order", headers=False),
    "text instead of a list": lambda send, topic: send(topic, b"order", headers="color"),
}


def _outcome(way: Callable[[Send, str], Any], producer: Any, topic: str) -> Any:
    """What comes of a way to send: the error, or nothing."""
    try:
        way(producer.send, topic).get(PATIENCE)
    except Exception as error:  # noqa: BLE001 - that is what is compared
        return type(error), str(error)
    return None


@over(way=WAYS, face=SENDERS)
def headers_may_be_given_as_the_client_takes_them_and_no_other_way(
    client: KafkaClient, way: str
) -> None:
    bare, traced = client.backstage.topic(), client.queue
    with silence():
        expected = _outcome(WAYS[way], client.new_producer(), bare)
    assert expected == _outcome(WAYS[way], client.producer, traced)
    without = [
        [pair for pair in pairs if pair[0] != "traceparent"] for pairs in client.headers(traced)
    ]
    assert client.headers(bare) == without
    if expected is None:
        assert _span_ids(client, client.publishes) == list(map(_span_id, client.headers(traced)))


@over(face=SENDERS)
def where_the_message_format_has_no_headers_none_are_added(client: KafkaClient) -> None:
    with silence():
        old = client.new_producer()
    old.config["api_version"] = (0, 10, 2)  # what it would have found with such a broker
    client._traced(old).send(client.queue, b"order").get(PATIENCE)
    assert [[]] == client.headers()
    client.expect_spans(client.a_publish())


# -- what became of a record that was sent ---------------------------------------------------------


@over(face=SENDERS)
def a_sends_span_lasts_until_the_broker_has_answered(client: KafkaClient) -> None:
    with silence():
        slow = client.new_producer(linger_ms=60_000)
    with client.span("order"):
        future = client._traced(slow).send(client.queue, b"order", b"k")
    client.expect_spans(Span("order"))
    slow.flush(5)
    future.get(PATIENCE)
    client._until(lambda: len(client.telemetry.recorded()) == 2)
    attributes = client.telemetry.attributes(client.publishes)
    client.expect_spans(Span("order"), client.a_publish(parent="order"))
    assert ("0", 0) == (
        attributes["messaging.destination.partition.id"],
        attributes["messaging.kafka.offset"],
    )


@over(face=SENDERS)
def a_future_is_the_clients_own(client: KafkaClient) -> None:
    future = client.producer.send(client.queue, b"order")
    told: list[Any] = []
    future.add_callback(told.append)
    with silence():
        expected = type(client.new_producer().send(client.queue, b"order"))
    assert type(future) is expected
    metadata = future.get(PATIENCE)
    assert (client.queue, 0, 0) == (metadata.topic, metadata.partition, metadata.offset)
    client._until(lambda: bool(told))
    assert [metadata] == told


EXITING = """
import sys
import hopspan
from kafka import KafkaProducer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

tracers = TracerProvider()
line = lambda span: f"{span.name} {span.status.status_code.name} {dict(span.attributes)}\\n"
tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
producer = KafkaProducer(bootstrap_servers=sys.argv[1], linger_ms=60_000)
hopspan.wrap(producer, tracer_provider=tracers)
producer.send(sys.argv[2], b"order")
print("sent")
"""


def a_process_that_exits_with_sends_in_flight_ends_their_spans(client: KafkaClient) -> None:
    run = subprocess.run(
        [sys.executable, "-c", EXITING, client.backstage.bootstrap, client.queue],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said, span = run.stdout.splitlines()
    assert "sent" == said
    assert span.startswith(f"send {client.queue} ")


@over(face=SENDERS)
@needs("transactions")
def transactions_are_what_they_were(client: KafkaClient) -> None:
    with silence():
        bare = client.new_producer(transactional_id=f"tx-{client.group}")
    producer = client._traced(bare)
    producer.init_transactions()
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.send(client.queue, end.__name__.encode()).get(PATIENCE)
        end()
    consumer = client.use_consumer(isolation_level="read_committed")
    assert [b"commit_transaction"] == [record.value for record in client.polled(1)]
    assert {} == consumer.poll(50)
    client.expect_spans(client.a_publish(), client.a_publish(trace=1))
    first, *_ = client.headers()
    assert _span_ids(client, client.publishes)[0] == _span_id(first)


# -- asking for records ----------------------------------------------------------------------------


@over(face=SENDERS)
def a_poll_is_one_span_with_a_link_for_each_record(client: KafkaClient) -> None:
    for _ in range(3):
        client.send()
    client.enter_face()
    assert 3 == len(client.polled(3))
    polls = client.telemetry.named(client.receives)
    assert _span_ids(client, client.publishes) == [
        link.context.span_id for span in polls for link in span.links
    ]
    assert 1 == len(polls)
    attributes = dict(polls[0].attributes or {})
    assert 3 == attributes["messaging.batch.message_count"]
    assert client.group == attributes["messaging.consumer.group.name"]
    assert ("poll", "receive") == (
        attributes["messaging.operation.name"],
        attributes["messaging.operation.type"],
    )
    assert polls[0].parent is None


@over(face=SENDERS)
def a_poll_of_several_topics_names_none(client: KafkaClient) -> None:
    other = client.backstage.topic()
    client.consumer.assign([client.place, TopicPartition(other, 0)])
    client.written(b"1")
    client.backstage.write(other, b"2")
    client.enter_face()
    deadline = time.monotonic() + 5
    topics: set[str] = set()
    while len(topics) < 2 and time.monotonic() < deadline:
        topics |= {record.topic for record in client.poll(most=10)}
    assert {client.queue, other} == topics
    assert set(_names(client)) <= {"poll", f"poll {client.queue}", f"poll {other}"}
    for span in client.telemetry.named("poll"):
        assert "messaging.destination.name" not in (span.attributes or {})


def _consumed(client: KafkaClient) -> set[Measured]:
    return {
        each for each in client.telemetry.measured() if each.metric.endswith("consumed.messages")
    }


@over(face=SENDERS)
def a_record_of_an_iterator_is_counted_once_and_no_poll_is_seen(client: KafkaClient) -> None:
    client.written(b"1", b"2", b"3")
    for record in client.loop("iterator"):
        if record.value == b"3":
            break
    assert [client.processes] * 3 == _names(client)
    assert {Measured("messaging.client.consumed.messages", "process", None, 3)} == _consumed(client)


@over(face=SENDERS)
def records_that_a_loop_gathers_into_batches_are_counted_once(client: KafkaClient) -> None:
    client.written(b"1", b"2", b"3", b"4")
    gathered: list[Any] = []
    for record in client.loop("iterator"):
        gathered.append(record)
        if len(gathered) == 2:
            with client.process(gathered):
                gathered = []
        if record.value == b"4":
            break
    assert {Measured("messaging.client.consumed.messages", "process", None, 4)} == _consumed(client)


def records_that_are_handled_one_by_one_within_their_batch_are_counted_once(
    client: KafkaClient,
) -> None:
    client.written(b"1", b"2")
    records = client.polled(2)
    with client.process(records):
        for record in records:
            with client.process(record):
                pass
    assert {Measured("messaging.client.consumed.messages", "process", None, 2)} == _consumed(client)


@over(face=SENDERS)
def a_single_next_is_a_poll_of_one_record(client: KafkaClient) -> None:
    client.written(b"1", b"2")
    client.enter_face()
    client.consumer.config["consumer_timeout_ms"] = 5000
    records = [next(client.consumer), next(client.consumer)]
    assert [b"1", b"2"] == [record.value for record in records]
    assert [client.receives] * 2 == _names(client)
    with client.process(records[0]):
        pass
    assert {Measured("messaging.client.consumed.messages", "poll", None, 2)} == _consumed(client)
    assert client.is_current_nothing()


@over(face=SENDERS)
def an_iterator_that_runs_out_may_be_asked_again(client: KafkaClient) -> None:
    client.written(b"1")
    client.enter_face()
    client.consumer.config["consumer_timeout_ms"] = 500
    assert [b"1"] == [record.value for record in client.consumer]
    client.written(b"2")
    assert [b"2"] == [record.value for record in client.consumer]
    assert client.is_current_nothing()
    assert [client.processes] * 2 == _names(client)


class SpoiltError(Exception):
    """A deserialiser's."""


class Spoilt(Deserializer):  # type: ignore[misc]
    """A deserialiser that does not take everything."""

    def deserialize(self, topic: str, *given: Any) -> Any:
        value = given[-1]  # kafka-python 3 gives it the headers first
        if value == b"bad":
            raise SpoiltError
        return value


class Json(Deserializer, Serializer):  # type: ignore[misc]
    """From bytes to objects and back."""

    def deserialize(self, topic: str, *given: Any) -> Any:
        return None if given[-1] is None else json.loads(given[-1])

    def serialize(self, topic: str, *given: Any) -> Any:
        return None if given[-1] is None else json.dumps(given[-1]).encode()


def _steps(consumer: Any, ask: Callable[[Any], Any], place: Any) -> Iterator[tuple[Any, Any]]:
    """What comes of asking, and where the consumer is afterwards.

    Nothing is asked after the failure without a seek: kafka-python 3.0 would poll for ever.
    """
    for step in range(3):
        if step == 2:
            consumer.seek(place, 2)
        came: Any
        try:
            came = ask(consumer)
        except SpoiltError:
            came = "spoilt"
        except StopIteration:
            came = "nothing"
        yield came, consumer.position(place)


def _by_poll(consumer: Any) -> Any:
    deadline = time.monotonic() + 5
    while not (answer := consumer.poll(300, max_records=1)) and time.monotonic() < deadline:
        pass
    return [record.offset for records in answer.values() for record in records]


def _by_next(consumer: Any) -> Any:
    return next(consumer).offset


def _by_loop(consumer: Any) -> Any:
    for record in consumer:
        return record.offset
    raise StopIteration


@over(ask=(_by_poll, _by_next, _by_loop), face=SENDERS)
def a_deserialiser_that_raises_is_seen_as_by_the_bare_client(
    client: KafkaClient, ask: Callable[[Any], Any]
) -> None:
    client.written(b"1", b"bad", b"3")
    config = {"value_deserializer": Spoilt(), "consumer_timeout_ms": 300}
    with silence():
        bare = client.new_consumer(group_id=f"bare-{client.group}", **config)
        bare.assign([client.place])
        expected = list(_steps(bare, ask, client.place))
    client.use_consumer(**config)
    client.enter_face()
    assert expected == list(_steps(client.consumer, ask, client.place))
    assert ([0] if ask is _by_poll else 0, 1) == expected[0]
    assert client.is_current_nothing()


@over(style="styles", face=SENDERS)
def headers_of_any_bytes_and_of_none_reach_the_handler(client: KafkaClient, style: str) -> None:
    given = [
        ("nothing", None),
        ("bytes", b"\xff\xfe"),
        ("traceparent", b"\xff"),
        ("traceparent", None),
        ("traceparent", VALID.encode()),
        ("bytes", b""),
    ]
    client.backstage.write(client.queue, b"order", given)
    seen: list[Any] = []
    client.consume_by(style, lambda message: seen.append(message.native.headers))
    assert [given] == seen
    (process,) = [span for span in client.telemetry.spans() if span.kind == "consumer"]
    assert ("elsewhere", ("elsewhere",)) == (process.parent, process.links)


# -- what is said about records --------------------------------------------------------------------


def _without_cluster(attributes: dict[str, Any]) -> dict[str, Any]:
    """The id of the cluster is the broker's secret."""
    cluster = attributes.pop("messaging.kafka.cluster.id", "known to few")
    assert isinstance(cluster, str)
    return attributes


@over(face=("wrapped", "instrumented"))
def each_span_says_where_its_record_is(client: KafkaClient) -> None:
    client.producer.send(client.queue, b"order", b"the key").get(PATIENCE)
    client.handle(raises(NO), policy=client.reject_on_error)
    everywhere = client.metric_attributes
    place = {"messaging.destination.partition.id": "0", "messaging.kafka.offset": 0}
    consuming = {
        **everywhere,
        **place,
        "messaging.consumer.group.name": client.group,
        "messaging.client.id": client.consumer.config["client_id"],
    }
    expected = {
        client.publishes: {
            **everywhere,
            **place,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.client.id": client.producer.config["client_id"],
        },
        client.receives: {
            **consuming,
            "messaging.operation.name": "poll",
            "messaging.operation.type": "receive",
        },
        client.processes: {
            **consuming,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "error.type": "ValueError",
            "hopspan.settlement": "reject",
            "hopspan.settlement.reason": "failed: ValueError",
        },
        f"dead_letter {client.queue}": {
            **consuming,
            "messaging.operation.name": "dead_letter",
            "messaging.operation.type": "settle",
            "hopspan.settlement": "reject",
            "hopspan.settlement.reason": "failed: ValueError",
        },
        f"commit {client.queue}": {
            **consuming,
            "messaging.operation.name": "commit",
            "messaging.operation.type": "settle",
            "hopspan.settlement": "ack",
        },
    }
    assert expected == {
        name: _without_cluster(client.telemetry.attributes(name)) for name in expected
    }


def _all_attributes(client: KafkaClient) -> list[dict[str, Any]]:
    return [dict(span.attributes or {}) for span in client.telemetry.recorded()]


@over(wanted=(False, True), face=FACES)
def a_records_key_is_told_only_where_that_is_asked_for(client: KafkaClient, wanted: bool) -> None:
    settings = {"message_key": True} if wanted else {}
    if client.face in {"instrumented", "together"}:
        client.instrument(**settings)
    if client.face != "instrumented":
        client.configure_sender(**settings)
    client.producer.send(client.queue, b"order", b"swordfish").get(PATIENCE)
    client.handle(succeeds, **settings)
    told = [each.get("messaging.kafka.message.key") for each in _all_attributes(client)]
    by_name = dict(zip(_names(client), told, strict=True))
    expected = "swordfish" if wanted else None
    assert (expected, expected) == (by_name[client.publishes], by_name[client.processes])
    if not wanted:
        assert "swordfish" not in repr(_all_attributes(client))


@over(face=SENDERS)
def a_tombstone_is_called_one(client: KafkaClient) -> None:
    client.producer.send(client.queue, None, b"k").get(PATIENCE)
    ran = client.handle(lambda message: message.native.value, policy=hopspan.ack_always)
    assert [None] == ran.results
    for name in (client.publishes, client.processes):
        assert client.telemetry.attributes(name)["messaging.kafka.message.tombstone"] is True
    client.producer.send(client.queue, b"", b"k").get(PATIENCE)
    client.drive(lambda: ran.times == 2)
    last = client.telemetry.named(client.processes)[-1]
    assert "messaging.kafka.message.tombstone" not in (last.attributes or {})


# -- several as one --------------------------------------------------------------------------------


@over(face=FACES)
def a_handler_of_a_batch_is_one_span_with_links(client: KafkaClient) -> None:
    for _ in range(3):
        client.send()
    seen: list[Any] = []
    settings = {"policy": hopspan.ack_always}
    own = client.settings(**settings if client.face in {"decorated", "together"} else {})

    @hopspan.consumer(via=client.consumer, **own)
    def on_records(records: list[Any]) -> str:
        seen.append([record.value for record in records])
        with client.span("work"):
            return "done"

    client.enter_face(**settings)
    assert "done" == on_records(client.polled(3))
    assert [[b"order"] * 3] == seen
    client.expect_spans(
        *(client.a_publish(trace=number) for number in range(3)),
        client.a_process(parent=None, links=(client.publishes,) * 3, trace=3, settlement="ack"),
        Span("work", parent=client.processes, trace=3),
    )
    assert 3 == client.committed()


@over(face=FACES)
def a_handler_of_a_batch_of_one_has_a_batch(client: KafkaClient) -> None:
    client.send()
    settings = {"policy": hopspan.ack_always}
    own = client.settings(**settings if client.face in {"decorated", "together"} else {})

    @hopspan.consumer(via=client.consumer, **own)
    def on_records(records: list[Any]) -> None: ...

    client.enter_face(**settings)
    on_records(client.polled(1))
    client.expect_spans(
        client.a_publish(), client.a_process(parent=None, trace=1, settlement="ack")
    )
    assert 1 == client.telemetry.attributes(client.processes)["messaging.batch.message_count"]
    assert 1 == client.committed()


@over(face=SENDERS)
def a_poll_that_returns_one_record_is_processed_as_a_batch(client: KafkaClient) -> None:
    client.send()
    client.enter_face()
    answer: dict[Any, list[Any]] = {}
    deadline = time.monotonic() + 5
    while not answer and time.monotonic() < deadline:
        answer = client.consumer.poll(20)
    with client.process(answer, policy=hopspan.ack_always):
        pass
    client.expect_spans(
        client.a_publish(), client.a_process(parent=None, trace=1, settlement="ack")
    )
    assert 1 == client.telemetry.attributes(client.processes)["messaging.batch.message_count"]


@over(how=("as it is", "its lists"), face=SENDERS)
def what_a_poll_returns_may_be_processed_as_one(client: KafkaClient, how: str) -> None:
    client.use_topic(2)
    for partition in (0, 1):
        client.written(b"1", b"2", partition=partition)
    client.enter_face()
    answers: dict[Any, list[Any]] = {}
    deadline = time.monotonic() + 5
    while sum(map(len, answers.values())) < 4 and time.monotonic() < deadline:
        for place, records in client.consumer.poll(20).items():
            answers.setdefault(place, []).extend(records)
    given = (
        answers if how == "as it is" else [each for several in answers.values() for each in several]
    )
    with client.process(given, policy=hopspan.ack_always):
        pass
    (span,) = client.telemetry.named(client.processes)
    assert 4 == (span.attributes or {})["messaging.batch.message_count"]
    assert (2, 2) == (client.committed(0), client.committed(1))


def what_a_poll_returns_may_be_handled_record_by_record(client: KafkaClient) -> None:
    client.use_topic(2)
    for partition in (0, 1):
        client.written(b"1", b"2", partition=partition)
    seen: list[Any] = []
    deadline = time.monotonic() + 5
    while len(seen) < 4 and time.monotonic() < deadline:
        answer = client.consumer.poll(20)
        for record in hopspan.each(answer, via=client.consumer, **client.settings()):
            assert hopspan.current()
            seen.append((record.partition, record.value))
    assert [(0, b"1"), (0, b"2"), (1, b"1"), (1, b"2")] == sorted(seen)
    assert [client.processes] * 4 == _names(client)
    assert not hopspan.current()


def a_batch_that_fails_is_dead_lettered_whole(client: KafkaClient) -> None:
    client.written(b"1", b"2")
    with pytest.raises(ValueError, match="no stock"):
        with client.process(client.polled(2), policy=client.reject_on_error):
            raise NO
    assert ["reject", "reject"] == client.settlements()
    assert 2 == client.committed()
    client.expect_queues(dead=2)


# -- whose record it is ----------------------------------------------------------------------------


@over(face=SENDERS)
def a_handler_finds_the_consumer_that_handed_its_record_out(client: KafkaClient) -> None:
    """Two groups get equal records; each is settled where it came from."""
    client.written(b"1")
    first, groups = client.consumer, (client.group, f"other-{client.group}")
    second = client.new_consumer(group_id=groups[1])
    second.assign([client.place])
    client.enter_face(policy=hopspan.ack_always)
    if client.face == "wrapped":
        hopspan.wrap(second, **client.settings(policy=hopspan.ack_always))
    records = []
    for consumer in (first, second):
        client.consumer = consumer
        records += client.polled(1)
    assert records[0] == records[1]
    handle = hopspan.consumer(lambda record: record.value)
    handle(records[1])
    committed = [client.backstage.committed(group, client.queue) for group in groups]
    assert [None, 1] == committed
    handle(records[0])
    assert 1 == client.backstage.committed(groups[0], client.queue)


def a_policy_that_cannot_find_the_consumer_is_refused(client: KafkaClient) -> None:
    client.written(b"1")
    (record,) = client.polled(1)
    seen: list[Any] = []
    handle = hopspan.consumer(policy=hopspan.ack_always)(seen.append)
    said = refusal(PolicyError, lambda: handle(record))
    assert said.startswith("policy ack_always cannot work with kafka: a record does not know its ")
    assert [] == seen
    hopspan.consumer(**client.settings())(seen.append)(record)
    assert [record] == seen  # without a policy nobody has to know


@over(face=SENDERS)
def a_record_that_is_not_in_hand_any_more_is_handled_and_left(client: KafkaClient) -> None:
    """As after a rebalance in the middle of a batch: its consumer has to go on."""
    client.written(b"1", b"2", b"3")
    client.enter_face(policy=hopspan.ack_always)
    records, seen = client.polled(3), list[Any]()
    client.consumer.assign([TopicPartition(client.dead, 0)])
    hopspan.consumer(**client.settings(policy=hopspan.ack_always))(seen.append)(records[0])
    for given in (records[1], records[1:]):
        with hopspan.process(given, **client.settings(policy=hopspan.ack_always)):
            seen.append(given)
    assert [records[0], records[1], records[1:]] == seen
    assert client.committed() is None
    assert "could not ack a message" in client.lines.take()[0]


# -- the frontier ----------------------------------------------------------------------------------


@over(face=FACES)
def nothing_is_committed_past_a_record_that_is_not_done(client: KafkaClient) -> None:
    client.written(b"0", b"1", b"2")
    client.enter_face()
    blocks = [client.process(each, policy=hopspan.ack_always) for each in client.polled(3)]
    deferred = []
    for block in blocks:
        with block as operation:
            deferred.append(operation.defer())
    seen = []
    for number in (2, 1, 0):
        with deferred[number]:
            pass
        client.sync()
        seen.append(client.committed())
    assert [None, None, 3] == seen


@over(face=FACES)
def a_record_that_is_left_holds_the_commits(client: KafkaClient) -> None:
    leaves = hopspan.Policy("leaves", lambda *_: Verdict.LEAVE, {Verdict.LEAVE, Verdict.ACK})
    client.written(b"0", b"1", b"2")
    client.enter_face()
    for record in client.polled(3):
        policy = leaves if record.offset == 1 else hopspan.ack_always
        with client.process(record, policy=policy):
            pass
    client.sync()
    assert 1 == client.committed()
    client.close_channel()
    assert 1 == client.committed()
    client.lines.take()  # that is worth a warning
    client.use_consumer()
    assert [b"1", b"2"] == [record.value for record in client.polled(2)]


@over(style="styles")
def closing_commits_what_is_done_and_not_what_is_open(client: KafkaClient, style: str) -> None:
    client.commits = Commits(seconds=3600)
    client.written(b"0", b"1")
    policy = {} if "iterator" == style or "each" in style else {"policy": hopspan.ack_always}
    if not policy:
        loop = client.loop(style)
        for number, record in enumerate(loop):
            if number == 0:
                _acked(client, record)
            else:
                client.close_channel()
                break
        del loop
    else:
        client.consume_by(style, succeeds, **policy)
        open_ = client.process(client.polled(1)[0], **policy)
        open_.__enter__()
        client.close_channel()
        open_.__exit__(None, None, None)
    client.lines.take()
    assert 1 == client.committed()


@over(face=SENDERS)
def an_iterators_own_position_is_never_committed(client: KafkaClient) -> None:
    client.written(b"0", b"1", b"2")

    def consume() -> None:
        for record in client.loop("iterator"):
            if record.offset == 1:
                raise NO
            _acked(client, record)

    with pytest.raises(ValueError, match="no stock"):
        consume()
    client.close_channel()
    client.lines.take()
    assert 1 == client.committed()


@needs("transactions")
def gaps_in_offsets_are_normal(client: KafkaClient) -> None:
    producer = client.new_producer(transactional_id=f"tx-{client.group}")
    producer.init_transactions()
    for body in (b"0", b"2"):  # each is followed by a mark that is no record
        producer.begin_transaction()
        producer.send(client.queue, body).get(PATIENCE)
        producer.commit_transaction()
    client.written(b"4")
    records = client.polled(3)
    assert [0, 2, 4] == [record.offset for record in records]
    for record in (records[1], records[0]):
        _acked(client, record)
    client.sync()
    assert client.committed() in {3, 4}
    _acked(client, records[2])
    client.sync()
    assert 5 == client.committed()
    client.expect_queues()


@over(face=SENDERS, asynchronous=(False, True))
def a_commit_by_the_user_settles_what_lies_below(client: KafkaClient, asynchronous: bool) -> None:
    client.written(b"0", b"1", b"2")
    client.enter_face()
    records = client.polled(3)
    _acked(client, records[1])
    assert None is client.committed()
    offsets = {client.place: OffsetAndMetadata(2, "", -1)}
    if asynchronous:
        client.consumer.commit_async(offsets)
        client.drive(lambda: client.log.commits)
    else:
        client.consumer.commit(offsets)
    assert 2 == client.committed()
    _acked(client, records[2])
    client.sync()
    assert 3 == client.committed()
    client.lines.take()  # that nobody began with the first, for a while
    assert sorted(client.log.commits, key=lambda each: each[client.place]) == client.log.commits


def a_commit_by_the_user_of_all_that_was_handed_out_is_theirs_to_answer_for(
    client: KafkaClient,
) -> None:
    client.written(b"0", b"1")
    client.wrap_consumer()
    records = client.polled(2)
    client.consumer.commit()
    assert 2 == client.committed()
    for record in records:
        with pytest.raises(ValueError, match="no stock"):
            with client.process(record, policy=client.reject_on_error):
                raise NO
    assert 2 == len(client.lines.take())  # too late for the policy
    client.expect_queues()


def a_user_may_go_back(client: KafkaClient) -> None:
    client.written(b"0", b"1", b"2")
    client.wrap_consumer()
    for record in client.polled(3):
        _acked(client, record)
    assert 3 == client.committed()
    client.consumer.seek(client.place, 1)
    again = client.polled(2)
    assert [1, 2] == [record.offset for record in again]
    for record in again:
        _acked(client, record)
    client.sync()
    assert 3 == client.committed()


# -- when it is committed --------------------------------------------------------------------------


def _handled(client: KafkaClient, count: int) -> None:
    """Handle so many records, one by one."""
    for record in client.polled(count):
        _acked(client, record)


def _offsets(client: KafkaClient) -> list[int]:
    return [each[client.place] for each in client.log.commits]


@over(wait=(True, False), face=FACES)
def every_so_many_records_is_a_commit(client: KafkaClient, wait: bool) -> None:
    client.commits = Commits(every=2, seconds=None, wait=wait)
    client.written(b"0", b"1", b"2", b"3", b"4")
    client.enter_face()
    _handled(client, 5)
    client.drive(lambda: len(client.log.commits) == 2)
    first, second = _offsets(client)
    # What does not wait goes on while a commit is on its way, and one is on its way at a time.
    assert (2, True) == (first, second == 4 if wait else second in {4, 5})
    client.close_channel()
    assert 5 == client.committed()
    assert 5 == _offsets(client)[-1]


def commits_may_come_with_time(client: KafkaClient) -> None:
    client.commits = Commits(seconds=3600)
    client.written(b"0", b"1")
    _handled(client, 2)
    client.sync()
    assert [] == client.log.commits
    client.close_channel()
    assert [2] == _offsets(client)


def commits_come_within_a_second_or_so_by_default(client: KafkaClient) -> None:
    client.commits = Commits()
    client.written(b"0", b"1")
    _handled(client, 2)
    client.drive(lambda: client.log.commits)
    assert [2] == _offsets(client)[-1:]


def a_commit_that_does_not_wait_is_answered_while_polling(client: KafkaClient) -> None:
    client.commits = Commits(every=1, seconds=None)
    client.written(b"0")
    _handled(client, 1)
    client.drive(lambda: client.log.commits)
    client.drive(lambda: _commits(client))
    assert ["UNSET"] == [span.status.status_code.name for span in _commits(client)]
    assert 1 == client.committed()


def a_commit_for_many_records_is_linked_to_their_spans(client: KafkaClient) -> None:
    client.commits = Commits(every=3, seconds=None, wait=True)
    client.written(b"0", b"1", b"2")
    _handled(client, 3)
    (commit,) = _commits(client)
    processes = _span_ids(client, client.processes)
    assert processes == [link.context.span_id for link in commit.links]
    assert 3 == (commit.attributes or {})["messaging.batch.message_count"]
    assert trace.SpanKind.CLIENT is commit.kind


@over(settle_spans=("notable", "all", "none"))
def a_commit_is_a_span_unless_there_are_to_be_none(client: KafkaClient, settle_spans: str) -> None:
    client.written(b"0")
    with client.process(client.polled(1)[0], policy=hopspan.ack_always, settle_spans=settle_spans):
        pass
    client.sync()
    assert 1 == client.committed()
    assert (settle_spans != "none") == len(_commits(client))
    measured = [
        attributes["messaging.operation.name"]
        for name, attributes, _ in client.telemetry.all_points()
        if name == "messaging.client.operation.duration"
    ]
    assert ["commit"] * len(_commits(client)) == measured


def _failing_once(client: KafkaClient, error: BaseException) -> None:
    """The next commit fails, as if the broker had said so."""
    coordinator = client.consumer._coordinator
    real = coordinator.commit_offsets_sync

    def fail(*_args: Any, **_kwargs: Any) -> None:
        coordinator.commit_offsets_sync = real
        raise error

    coordinator.commit_offsets_sync = fail


def a_commit_that_fails_is_an_error_of_its_span_and_is_tried_again(client: KafkaClient) -> None:
    client.written(b"0", b"1")
    client.wrap_consumer()
    first, second = client.polled(2)
    _failing_once(client, RequestTimedOutError())
    _acked(client, first)
    assert None is client.committed()
    (failed,) = _commits(client)
    assert ("ERROR", "REQUEST_TIMED_OUT") == (
        failed.status.status_code.name,
        (failed.attributes or {})["error.type"],
    )
    (line,) = client.lines.take()
    assert line.startswith(f"could not commit {{'{client.queue}-0': 1}}; the next commit tries ")
    _acked(client, second)
    assert [2] == _offsets(client)
    assert ["ERROR", "UNSET"] == [span.status.status_code.name for span in _commits(client)]


def a_commit_that_fails_is_tried_again_at_the_latest_on_closing(client: KafkaClient) -> None:
    client.commits = Commits(every=1, seconds=None, wait=True)
    client.written(b"0")
    client.wrap_consumer()
    (record,) = client.polled(1)
    _failing_once(client, RequestTimedOutError())
    _acked(client, record)
    client.close_channel()
    assert 1 == len(client.lines.take())
    assert 1 == client.committed()


# -- giving back -----------------------------------------------------------------------------------


@over(face=FACES)
def what_comes_after_a_record_that_is_given_back_waits_for_it(client: KafkaClient) -> None:
    client.written(b"0", b"1", b"2")
    client.enter_face()
    policy, fails = client.requeue_once, [b"0"]
    handled: list[bytes] = []

    def handle(records: list[Any]) -> None:
        for record in records:
            with contextlib.suppress(ValueError), client.process(record, policy=policy):
                if record.value in fails:
                    fails.remove(record.value)
                    raise NO
                handled.append(record.value)

    handle(client.polled(3))
    assert [b"1", b"2"] == handled
    client.sync()
    assert [] == client.log.commits
    handle(client.polled(1))
    assert b"0" == handled[2]
    handle(client.polled(2))
    client.sync()
    assert 3 == client.committed()
    assert ["requeue", "ack", "ack", "ack"] == client.settlements()


THEN: dict[str, tuple[Any, str, int]] = {
    "a dead-letter topic": (None, "reject", 1),
    "ack": (hopspan.ack_always, "ack", 0),
    "ack as a verdict": (Verdict.ACK, "ack", 0),
}


@over(then=THEN, face=FACES)
def attempts_are_counted_and_bounded(client: KafkaClient, then: str) -> None:
    policy, last, dead = THEN[then]
    attempts: list[Any] = []

    def fail(_message: Message) -> None:
        delivery = hopspan.current().delivery
        attempts.append((delivery.attempt, delivery.redelivered))
        raise NO

    client.written(b"0")
    given = hopspan.requeue_times(2, then=policy or client.reject_on_error)
    client.handle(fail, runs=3, policy=given)
    assert [(1, False), (2, True), (3, True)] == attempts
    assert ["requeue", "requeue", last] == client.settlements()
    told = [
        (span.attributes or {}).get("hopspan.attempt")
        for span in client.telemetry.named(client.processes)
    ]
    assert [None, 2, 3] == told
    assert 1 == client.committed()
    client.expect_queues(dead=dead)


def attempts_are_counted_for_each_record(client: KafkaClient) -> None:
    client.written(b"0", b"1")
    attempts: list[Any] = []

    def handle(message: Message) -> None:
        attempts.append((message.body, hopspan.current().delivery.attempt))
        if hopspan.current().delivery.attempt == 1:
            raise NO

    client.handle(handle, runs=4, policy=client.requeue_once)
    assert [(b"0", 1), (b"0", 2), (b"1", 1), (b"1", 2)] == attempts
    assert 2 == client.committed()


PAUSE = 0.25


@over(face=FACES)
def a_pause_holds_the_partition_and_nothing_else(client: KafkaClient) -> None:
    client.use_topic(2)
    client.written(b"fails", partition=0)
    policy = hopspan.requeue_times(1, then=client.reject_on_error, pause=PAUSE)
    ran_at: dict[bytes, list[float]] = {}

    def handle(message: Message) -> None:
        ran_at.setdefault(message.body, []).append(time.monotonic())
        if message.body == b"fails" and len(ran_at[b"fails"]) == 1:
            raise NO

    ran = client.handle(handle, policy=policy)
    client.written(b"goes on", partition=1)
    client.drive(lambda: ran.times == 2)
    assert b"goes on" in ran_at
    client.drive(lambda: ran.times == 3)
    first, second = ran_at[b"fails"]
    assert second - first >= PAUSE
    assert set() == client.consumer.paused()
    assert (1, 1) == (client.committed(0), client.committed(1))


@over(when=("before", "while"))
def what_the_user_has_paused_is_not_resumed(client: KafkaClient, when: str) -> None:
    client.use_topic(2)
    client.written(b"fails", partition=0)
    policy = hopspan.requeue_times(1, then=client.reject_on_error, pause=PAUSE)
    mine = TopicPartition(client.queue, 1 if when == "before" else 0)
    if when == "before":
        client.consumer.pause(mine)
    began = time.monotonic()
    ran = client.handle(raises(NO), policy=policy)
    if when == "while":
        client.consumer.pause(mine)
    client.drive(lambda: time.monotonic() > began + 2 * PAUSE)
    assert {mine} == client.consumer.paused()
    assert (2 if when == "before" else 1) == ran.times


@over(face=("decorated", "wrapped"))
def a_pause_keeps_the_consumer_in_its_group(client: KafkaClient) -> None:
    client.consumer = client.new_consumer(client.queue, session_timeout_ms=6000)
    client.written(b"0")
    ran = client.subscribe(
        raises(NO), policy=hopspan.requeue_times(1, then=client.reject_on_error, pause=PAUSE)
    )
    client.drive_for(PATIENCE, lambda: ran.times == 1)
    generation = client.consumer._coordinator._generation.generation_id
    client.drive_for(PATIENCE, lambda: ran.times == 2)
    assert generation == client.consumer._coordinator._generation.generation_id
    assert {client.place} == client.consumer.assignment()
    client.drive(lambda: client.log.commits)
    client.expect_queues(dead=1)


# -- dead letters ----------------------------------------------------------------------------------


def _dead(client: KafkaClient) -> Any:
    (record,) = client.backstage.records(client.dead)
    return record


@over(face=FACES)
def a_dead_letter_is_the_record_byte_by_byte_with_its_origin(client: KafkaClient) -> None:
    given = [
        ("color", b"red"),
        ("bytes", b"\xff"),
        ("color", b"blue"),
        ("traceparent", VALID.encode()),
    ]
    client.written(b"before")
    client.backstage.write(client.queue, b"\xff\x00body", given, key=b"\xfekey")
    fails = lambda message: None if message.body == b"before" else raises(NO)(message)  # noqa: E731
    client.handle(fails, runs=3, policy=client.requeue_once)
    record = _dead(client)
    assert (b"\xfekey", b"\xff\x00body") == (record.key, record.value)
    pairs = list(record.headers)
    (sent,) = client.telemetry.named(f"send {client.dead}")
    assert sent.context.span_id == _span_id(pairs)
    assert int("a" * 32, 16) == sent.context.trace_id
    assert [
        ("color", b"red"),
        ("bytes", b"\xff"),
        ("color", b"blue"),
        ("hopspan.origin.topic", client.queue.encode()),
        ("hopspan.origin.partition", b"0"),
        ("hopspan.origin.offset", b"1"),
        ("hopspan.error.type", b"ValueError"),
        ("hopspan.attempt", b"2"),
    ] == [pair for pair in pairs if pair[0] != "traceparent"]


@over(face=FACES)
def a_dead_letter_continues_the_trace(client: KafkaClient) -> None:
    client.send()
    client.handle(raises(NO), policy=client.reject_on_error)
    rejected = {"settlement": "reject", "reason": "failed: ValueError"}
    client.expect_spans(
        client.a_publish(),
        client.a_process(**rejected).failed(NO),
        client.a_settle(**rejected),
        Span(f"send {client.dead}", "producer", parent=client.processes),
    )


def a_dead_letter_of_a_dead_letter_says_where_it_was_last(client: KafkaClient) -> None:
    client.written(b"0")
    first, client.dead = client.dead, client.backstage.topic()
    to_first = hopspan.dead_letter(first, producer=client.dead_producer)
    client.handle(raises(NO), policy=to_first)
    client.queue = first
    client.consumer.assign([client.place])
    client.handle(raises(KeyError("k")), policy=client.reject_on_error)
    headers = list(_dead(client).headers)
    assert len(dict(headers)) == len(headers)
    assert (first.encode(), b"KeyError") == (
        dict(headers)["hopspan.origin.topic"],
        dict(headers)["hopspan.error.type"],
    )


def headers_without_a_value_do_not_keep_a_record_from_its_dead_letter_topic(
    client: KafkaClient,
) -> None:
    client.backstage.write(client.queue, b"0", [("nothing", None)])
    client.handle(raises(NO), policy=client.reject_on_error)
    assert dict(_dead(client).headers)["nothing"] in {None, b""}
    client.expect_queues(dead=1)


def a_record_is_done_only_when_the_broker_has_its_copy(client: KafkaClient) -> None:
    client.written(b"0")
    seen: list[Any] = []
    client.log.on_commit = lambda _: seen.append(client.backstage.end(client.dead))
    client.handle(raises(NO), policy=client.reject_on_error)
    assert [1] == seen
    assert 1 == client.committed()


def a_copy_that_fails_loses_nothing(client: KafkaClient) -> None:
    client.written(b"0", b"1")
    client.dead_producer._sender.force_close()
    ran = client.subscribe(raises(NO), policy=client.reject_on_error)
    client.drive(lambda: ran.times, ran)
    assert [NO] == ran.escaped
    (line,) = client.lines.take()
    assert (
        f"could not dead_letter a message of {client.queue}; the broker will hand it out again"
        == line
    )
    (settle,) = client.telemetry.named(f"dead_letter {client.queue}")
    assert "ERROR" == settle.status.status_code.name
    client.expect_queues(waiting=2)
    assert None is client.committed()


def a_record_whose_copy_failed_comes_again(client: KafkaClient) -> None:
    client.written(b"0")
    broken, client.dead_producer = (
        client.dead_producer,
        client._kept(type(client.dead_producer)(client.log, **client.backstage.config)),
    )
    broken._sender.force_close()
    broken.config["max_block_ms"] = 1_000  # kafka-python 2.2 asks for the topic first, of nobody
    producers = [broken, client.dead_producer]

    def decide(outcome: Any, _delivery: Any) -> Any:
        producer = producers.pop(0)
        return hopspan.Settlement(Verdict.REJECT, "failed", (client.dead, producer))

    ran = client.subscribe(raises(NO), policy=client.policy("by_turns", decide))
    client.drive(lambda: "reject" in client.settlements(), ran)
    client.lines.take()
    assert 2 == ran.times
    client.expect_queues(dead=1)


def what_was_deserialised_is_serialised_by_the_producer(client: KafkaClient) -> None:
    client.backstage.write(client.queue, b'{"id":7}', key=b'"k"')
    client.use_consumer(value_deserializer=Json(), key_deserializer=Json())
    producer = client.new_producer(value_serializer=Json(), key_serializer=Json())
    policy = hopspan.dead_letter(client.dead, producer=producer)
    ran = client.handle(raises(NO), policy=policy)
    assert [{"id": 7}] == [message.native.value for message in ran.messages]
    assert (b'"k"', b'{"id": 7}') == (_dead(client).key, _dead(client).value)
    client.expect_queues(dead=1)


@over(face=FACES)
def objects_that_the_producer_cannot_write_are_refused_before_the_handler_runs(
    client: KafkaClient,
) -> None:
    client.backstage.write(client.queue, b'{"id":7}')
    client.use_consumer(value_deserializer=Json())
    ran = client.subscribe(succeeds, policy=client.reject_on_error)
    client.drive(lambda: ran.escaped, ran)
    (error,) = ran.escaped
    assert isinstance(error, PolicyError)
    assert "the consumer deserialises each value (this one is dict), and the producer of " in str(
        error
    )
    assert "no value_serializer" in str(error)
    assert 0 == ran.times
    client.expect_queues(waiting=1)


@over(face=SENDERS)
def a_traced_producer_of_dead_letters_sends_each_once(client: KafkaClient) -> None:
    client.written(b"0")
    producer = client.new_producer()
    if client.face == "wrapped":
        hopspan.wrap(producer, **client.settings())
    client.handle(raises(NO), policy=hopspan.dead_letter(client.dead, producer=producer))
    assert 1 == _names(client).count(f"send {client.dead}")
    (sent,) = _span_ids(client, f"send {client.dead}")
    assert sent == _span_id(list(_dead(client).headers))


# -- partitions that come and go -------------------------------------------------------------------


class _Heard(ConsumerRebalanceListener):  # type: ignore[misc]
    """The application's own listener."""

    def __init__(self) -> None:
        self.assigned: list[set[Any]] = []
        self.revoked: list[set[Any]] = []

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.assigned.append(set(assigned))

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.revoked.append(set(revoked))


def _joined(client: KafkaClient, heard: _Heard) -> list[Any]:
    """A record of each of two partitions, handed out to the only member of the group."""
    client.queue = client.backstage.topic(2)
    for partition in (0, 1):
        client.written(b"0", b"1", partition=partition)
    client.consumer = client.new_consumer(session_timeout_ms=6000)
    client.enter_face()
    client.consumer.subscribe([client.queue], listener=heard)
    records: dict[int, Any] = {}

    def both() -> bool:
        for record in client.poll(JOINING):
            records.setdefault(record.partition, record)
        return len(records) == 2

    client.drive_for(PATIENCE, both)
    return [records[0], records[1]]


def _until_shared(client: KafkaClient, other: Any) -> None:
    """Both poll until each has a partition."""
    done = threading.Event()

    def keep_polling() -> None:
        while not done.is_set():
            other.poll(JOINING)

    polling = client.in_thread(keep_polling)
    try:
        client.drive_for(PATIENCE, lambda: len(client.consumer.assignment()) == 1)
    finally:
        done.set()
        polling.result()


@over(face=("wrapped", "instrumented"))
def what_is_open_ends_with_its_partition_and_is_never_committed(client: KafkaClient) -> None:
    heard = _Heard()
    deferred = []
    for record in _joined(client, heard):
        with client.process(record, policy=hopspan.ack_always) as operation:
            deferred.append(operation.defer())
    assert [] == client.telemetry.named(client.processes)
    with silence():
        other = client.new_consumer(client.queue, session_timeout_ms=6000)
    _until_shared(client, other)
    (kept,) = (place.partition for place in client.consumer.assignment())
    lost = 1 - kept
    assert lost in {place.partition for places in heard.revoked for place in places}
    # Where the group gives up everything for a moment, what comes back has been lost as well or not.
    attributes = {
        (span.attributes or {})["messaging.destination.partition.id"]: span.attributes or {}
        for span in client.telemetry.named(client.processes)
    }
    # "lost" where the machine was so busy that the group has thrown us out meanwhile.
    assert attributes[str(lost)]["hopspan.settlement.reason"] in {"revoked", "lost"}
    assert ("leave", True) == (
        attributes[str(lost)]["hopspan.settlement"],
        attributes[str(lost)]["hopspan.cancelled"],
    )
    with deferred[lost]:
        pass
    client.sync_all()
    assert [] == client.log.commits
    (line,) = client.lines.take()
    assert "or the partition was lost; nothing more is settled" in line
    client.close_channel()
    client.lines.take()
    assert None is client.committed(lost)


@over(face=("wrapped", "instrumented"))
def what_is_done_is_committed_before_its_partition_goes(client: KafkaClient) -> None:
    client.commits = Commits(seconds=3600)
    heard = _Heard()
    for record in _joined(client, heard):
        _acked(client, record)
    assert [] == client.log.commits
    with silence():
        other = client.new_consumer(client.queue, session_timeout_ms=6000)
    _until_shared(client, other)
    done = [client.committed(partition) for partition in (0, 1)]
    assert [1, 1] == [min(each or 0, 1) for each in done]


def a_listener_of_the_users_hears_what_it_would_hear(client: KafkaClient) -> None:
    heard = _Heard()
    _joined(client, heard)
    both = {TopicPartition(client.queue, 0), TopicPartition(client.queue, 1)}
    assert both == set().union(*heard.assigned)
    client.close_channel()
    client.lines.take()


def a_partition_that_is_unassigned_is_not_committed_any_more(client: KafkaClient) -> None:
    client.written(b"0", b"1")
    client.wrap_consumer()
    first, second = client.polled(2)
    client.commits = Commits(seconds=3600)
    _acked(client, first)
    with client.process(second, policy=hopspan.ack_always) as operation:
        deferred = operation.defer()
    other = TopicPartition(client.backstage.topic(), 0)
    client.consumer.assign([other])
    assert 1 == client.committed()
    with deferred:
        pass
    client.sync()
    client.close_channel()
    client.lines.take()
    assert 1 == client.committed()


# -- elsewhere -------------------------------------------------------------------------------------


@over(face=FACES)
def work_on_a_pool_is_committed_as_far_as_all_is_done(client: KafkaClient) -> None:
    count = 12
    done: set[int] = set()
    too_far: list[Any] = []

    def look(offsets: dict[Any, int]) -> None:
        too_far.extend(
            (offset, sorted(done)) for offset in offsets.values() if not set(range(offset)) <= done
        )

    def work(offset: int, deferred: Any) -> None:
        threading.Event().wait(0.002 * (offset * 7 % 5))
        with deferred:
            done.add(offset)

    client.log.on_commit = look
    client.written(*(str(number).encode() for number in range(count)))
    client.subscribe(
        lambda message: client.in_thread(work, message.native.offset, hopspan.current().defer()),
        policy=hopspan.ack_always,
    )
    client.watch_threads()
    client.drive(lambda: client.log.commits and _offsets(client)[-1] == count)
    assert [] == too_far
    assert ["ack"] * count == client.settlements()
    assert {threading.get_ident()} == set(client.settling_threads)


def deferred_work_that_fails_on_a_pool_is_sought_by_the_consumers_thread(
    client: KafkaClient,
) -> None:
    client.written(b"0")
    runs: list[int] = []

    def work(deferred: Any) -> None:
        with deferred:
            runs.append(threading.get_ident())
            if len(runs) == 1:
                raise NO

    client.subscribe(
        lambda _: client.in_thread(work, hopspan.current().defer()), policy=client.requeue_once
    )
    client.drive(lambda: client.committed() == 1)
    assert 2 == len(runs)
    assert ["requeue", "ack"] == client.settlements()


# -- what cannot work ------------------------------------------------------------------------------


COMMITS_BY_ITSELF = (
    "it has enable_auto_commit=True, so the client commits by itself whatever becomes of a record. "
    "Make the consumer with enable_auto_commit=False, or use policy=hopspan.manual"
)


def _by_block(client: KafkaClient, record: Any) -> None:
    with client.process(record, policy=hopspan.ack_always):
        pass


def _by_handler(client: KafkaClient, record: Any) -> None:
    settings = client.settings(policy=hopspan.ack_always)
    hopspan.consumer(via=client.consumer, **settings)(succeeds)(record)


@over(way=(_by_block, _by_handler))
def a_settling_policy_is_refused_where_the_client_commits_by_itself(
    client: KafkaClient, way: Callable[..., None]
) -> None:
    client.written(b"0")
    client.use_consumer(enable_auto_commit=True)
    (record,) = client.polled(1)
    said = refusal(PolicyError, lambda: way(client, record))
    # Refused when it is decorated, where the consumer is given.
    whom = f"the consumer of {client.queue}" if way is _by_block else "this consumer"
    assert f"policy ack_always cannot settle for {whom}: {COMMITS_BY_ITSELF}" == said
    client.expect_spans()


def wrapping_a_consumer_that_commits_by_itself_refuses_a_settling_policy(
    client: KafkaClient,
) -> None:
    consumer = client.use_consumer(enable_auto_commit=True)
    said = refusal(
        PolicyError, lambda: hopspan.wrap(consumer, **client.settings(policy=hopspan.ack_always))
    )
    assert "enable_auto_commit=True" in said
    assert "enable_auto_commit=False" in said


def a_client_that_commits_by_itself_is_fine_without_a_policy(client: KafkaClient) -> None:
    client.written(b"0")
    client.use_consumer(enable_auto_commit=True)
    ran = client.handle(succeeds)
    assert 1 == ran.times
    client.close_channel()
    assert 1 == client.committed()


REFUSED: dict[str, Any] = {
    "reject_on_error": hopspan.reject_on_error,
    "requeue_once": hopspan.requeue_once,
    "requeue_times(3)": hopspan.requeue_times(3),
    "own": hopspan.Policy("own", lambda *_: Verdict.REJECT, {Verdict.REJECT}),
    "by_exception": hopspan.by_exception({KeyError: Verdict.REJECT}, default=hopspan.ack_always),
}


@over(policy=REFUSED, face=FACES)
def a_policy_that_rejects_is_refused_without_a_dead_letter_topic(
    client: KafkaClient, policy: str
) -> None:
    client.written(b"0")

    def attempt() -> None:
        ran = client.subscribe(succeeds, policy=REFUSED[policy])
        client.drive(lambda: ran.escaped or ran.times, ran)
        for error in ran.escaped:
            raise error

    said = refusal(PolicyError, attempt)
    assert said.startswith(
        f"policy {REFUSED[policy].name} cannot work with kafka: Kafka cannot reject a record. Say "
        "where it is to go: policy=hopspan.dead_letter("
    )
    assert [] == client.log.commits


@over(face=("wrapped", "instrumented"))
def a_policy_that_rejects_is_refused_at_once_where_the_consumer_is_known(
    client: KafkaClient,
) -> None:
    refusal(PolicyError, lambda: client.enter_face(policy=hopspan.reject_on_error))


@over(policy=REFUSED)
def a_policy_that_rejects_is_refused_by_the_decorator_that_is_given_the_consumer(
    client: KafkaClient, policy: str
) -> None:
    settings = client.settings(policy=REFUSED[policy])
    said = refusal(PolicyError, lambda: hopspan.consumer(via=client.consumer, **settings)(succeeds))
    assert said.startswith(f"policy {REFUSED[policy].name} cannot work with kafka: ")


def a_settling_policy_is_refused_by_the_decorator_that_is_given_a_consumer_that_commits(
    client: KafkaClient,
) -> None:
    consumer = client.use_consumer(enable_auto_commit=True)
    settings = client.settings(policy=hopspan.ack_always)
    said = refusal(PolicyError, lambda: hopspan.consumer(via=consumer, **settings)(succeeds))
    assert COMMITS_BY_ITSELF in said


def a_dead_letter_policy_needs_a_producer(client: KafkaClient) -> None:
    client.written(b"0")
    (record,) = client.polled(1)
    policy = hopspan.dead_letter(client.dead, producer=object())
    said = refusal(PolicyError, lambda: client.process(record, policy=policy).__enter__())
    assert "needs a KafkaProducer, and was given object" in said


def a_consumer_without_a_group_has_nothing_to_commit(client: KafkaClient) -> None:
    client.written(b"0", b"1")
    client.use_consumer(group_id=None)
    ran = client.handle(raises(NO), runs=2, policy=client.requeue_once)
    assert [b"0", b"0"] == ran.bodies
    client.drive(lambda: "reject" in client.settlements())
    assert [] == client.log.commits


# -- what stays the client's -----------------------------------------------------------------------


@over(face=("wrapped", "instrumented"))
def a_tracked_consumer_is_a_consumer_still(client: KafkaClient) -> None:
    client.written(b"0")
    client.enter_face(policy=hopspan.ack_always)
    (record,) = client.polled(1)
    assert isinstance(client.consumer, KafkaConsumer)
    assert isinstance(record, ConsumerRecord)
    assert 1 == client.consumer.position(client.place)
    assert {client.place} == client.consumer.assignment()
    assert 1 == client.consumer.end_offsets([client.place])[client.place]
    with pytest.raises((AssertionError, KafkaError)):
        client.new_consumer(group_id=None).commit()
    with pytest.raises((ValueError, AssertionError, KafkaError)):
        client.consumer.seek(TopicPartition("nowhere", 0), 1)
    client.lines.take()
    assert iter(client.consumer)
