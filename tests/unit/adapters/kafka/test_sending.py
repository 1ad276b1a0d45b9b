"""Publishing with a producer that never connects: what it gets, and when the span ends."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, NamedTuple

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError, NotLeaderForPartitionError
from kafka.future import Future
from opentelemetry.trace import SpanKind

import hopspan
from hopspan.adapters import kafka_common
from hopspan.adapters.kafka import producer as producers
from hopspan.adapters.kafka.consumer import ConsumerState
from hopspan.model import Endpoint, Verdict
from hopspan.propagation import PAIRS
from hopspan.telemetry import start_send
from tests.unit.adapters.kafka.conftest import ORDERS, Consumer, Handle, polled, record
from tests.unit.support import Seen, Telemetry

SENT = {
    "messaging.system": "kafka",
    "messaging.operation.name": "send",
    "messaging.operation.type": "send",
    "messaging.destination.name": "orders",
    "messaging.client.id": "p1",
    "server.address": "broker",
    "server.port": 9093,
}


class Metadata(NamedTuple):
    """What the broker answers."""

    partition: int = 2
    offset: int | None = 7


class Answer(Future):  # type: ignore[misc]
    """A future that can be waited for, as a producer's."""

    def get(self, timeout: float | None = None) -> Any:
        self.timeout = timeout
        if self.exception is not None:
            raise self.exception
        return self.value


class Producer(KafkaProducer):  # type: ignore[misc]
    """The client's interface, and nothing behind it."""

    def __init__(self, **config: Any) -> None:
        self.config = {
            "bootstrap_servers": "broker:9093",
            "client_id": "p1",
            "api_version": (2, 6),
            **config,
        }
        self.sent: list[Any] = []
        self.answers: list[Answer] = []
        self.refusal: Exception | None = None
        """What sending raises at once."""

    def send(
        self,
        topic: Any,
        value: Any = None,
        key: Any = None,
        headers: Any = None,
        partition: Any = None,
        timestamp_ms: Any = None,
    ) -> Answer:
        self.sent.append((topic, value, key, headers, partition, timestamp_ms))
        self.answers.append(Answer())
        if self.refusal is not None:
            raise self.refusal
        return self.answers[-1]

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to close."""

    def __del__(self) -> None:
        """Nor here."""


@pytest.fixture
def producer(telemetry: Telemetry) -> Producer:
    return hopspan.wrap(Producer(), **telemetry.settings)


# -- what is sent ----------------------------------------------------------------------------------


def test_a_send_carries_its_context_behind_the_headers(
    producer: Producer, telemetry: Telemetry
) -> None:
    headers = [("a", b"1")]
    producer.send("orders", b"v", headers=headers)
    producer.answers[0].success(Metadata())
    ((_, _, _, carried, _, _),) = producer.sent
    context = telemetry.spans[0].context
    assert context is not None
    assert (carried[0], [key for key, _ in carried]) == (("a", b"1"), ["a", "traceparent"])
    assert f"{context.trace_id:032x}-{context.span_id:016x}".encode() in carried[1][1]
    assert headers == [("a", b"1")]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("orders", b"v", b"k", None, 3, 99), {}),
        (
            (),
            {"topic": "orders", "value": b"v", "key": b"k", "partition": 3, "timestamp_ms": 99},
        ),
    ],
)
def test_arguments_may_be_given_in_every_way(args: Any, kwargs: Any, producer: Producer) -> None:
    producer.send(*args, **kwargs)
    ((topic, value, key, _, partition, timestamp),) = producer.sent
    assert (topic, value, key, partition, timestamp) == ("orders", b"v", b"k", 3, 99)


@pytest.mark.parametrize("version", [(0, 10, 2), (0, 9), (0, 8, 2)])
def test_a_broker_without_headers_gets_none(version: Any, telemetry: Telemetry) -> None:
    """It would refuse the message for them."""
    producer = hopspan.wrap(Producer(api_version=version), **telemetry.settings)
    producer.send("orders", b"v")
    assert producer.sent[0][3] is None


@pytest.mark.parametrize("version", [(0, 11), (1, 0), None])
def test_any_other_gets_them(version: Any, telemetry: Telemetry) -> None:
    producer = hopspan.wrap(Producer(api_version=version), **telemetry.settings)
    producer.send("orders", b"v")
    assert [key for key, _ in producer.sent[0][3]] == ["traceparent"]


@pytest.mark.parametrize("headers", [(("a", b"1"),), {"a": b"1"}, "text"])
def test_headers_that_the_client_refuses_are_left_to_it(headers: Any, producer: Producer) -> None:
    producer.send("orders", b"v", headers=headers)
    assert producer.sent[0][3] is headers


# -- the span --------------------------------------------------------------------------------------


def test_the_span_ends_when_the_broker_has_answered(
    producer: Producer, telemetry: Telemetry
) -> None:
    future = producer.send("orders", b"v", b"k")
    assert (telemetry.spans, future is producer.answers[0]) == ([], True)
    future.success(Metadata(2, 7))
    assert telemetry.only == Seen(
        "send orders",
        SpanKind.PRODUCER,
        {**SENT, "messaging.destination.partition.id": "2", "messaging.kafka.offset": 7},
    )


@pytest.mark.parametrize(
    ("offset", "said"),
    [(-1, None), (None, None), (0, 0)],
)
def test_an_offset_that_nobody_tells_is_not_said(
    offset: int | None, said: int | None, producer: Producer, telemetry: Telemetry
) -> None:
    """`acks=0`."""
    producer.send("orders", b"v").success(Metadata(0, offset))
    attributes = telemetry.only.attributes
    assert attributes["messaging.destination.partition.id"] == "0"
    assert attributes.get("messaging.kafka.offset") == said


def test_a_partition_and_a_tombstone_are_said_from_the_start(
    producer: Producer, telemetry: Telemetry
) -> None:
    producer.send("orders", partition=0).failure(KafkaTimeoutError("late"))
    attributes = telemetry.only.attributes
    assert attributes["messaging.destination.partition.id"] == "0"
    assert attributes["messaging.kafka.message.tombstone"] is True


@pytest.mark.parametrize("wanted", [False, True])
def test_a_key_is_said_on_request(wanted: bool, telemetry: Telemetry) -> None:
    producer = hopspan.wrap(Producer(), message_key=wanted, **telemetry.settings)
    producer.send("orders", b"v", b"k1").success(Metadata())
    said = telemetry.only.attributes.get("messaging.kafka.message.key")
    assert said == ("k1" if wanted else None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotLeaderForPartitionError("moved"), "NOT_LEADER_FOR_PARTITION"),
        (KafkaTimeoutError("late"), "kafka.errors.KafkaTimeoutError"),
    ],
)
def test_a_send_that_was_refused_has_failed(
    error: Exception, kind: str, producer: Producer, telemetry: Telemetry
) -> None:
    producer.send("orders", b"v").failure(error)
    assert telemetry.only.attributes["error.type"] == kind
    assert telemetry.only.status == ("ERROR", str(error))


def test_a_fault_while_ending_is_logged_once_and_not_the_clients(
    producer: Producer, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def cannot(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("hopspan.telemetry.operation.Operation.end", cannot)
    producer.send("orders", b"v").success(Metadata())
    producer.send("orders", b"v").failure(KafkaTimeoutError("late"))
    assert {each.name for each in logged.records} == {"hopspan"}


def test_a_send_that_raises_has_failed_at_once(producer: Producer, telemetry: Telemetry) -> None:
    before = dict(producers._unanswered._operations)
    producer.refusal = KafkaTimeoutError("no metadata")
    with pytest.raises(KafkaTimeoutError) as raised:
        producer.send("orders", b"v")
    assert raised.value is producer.refusal
    assert telemetry.only.status[0] == "ERROR"
    assert producers._unanswered._operations == before


# -- at the end of the process ---------------------------------------------------------------------


def test_an_answered_send_is_not_remembered(producer: Producer) -> None:
    before = dict(producers._unanswered._operations)
    first, second = producer.send("orders", b"v"), producer.send("orders", b"v")
    assert len(producers._unanswered._operations) == len(before) + 2
    first.success(Metadata())
    second.failure(KafkaTimeoutError("late"))
    assert producers._unanswered._operations == before


def test_the_end_of_the_process_is_looked_out_for_once(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("hopspan.adapters.kafka.producer.atexit.register", registered.append)
    unanswered = producers._Unanswered()
    assert registered == []
    for _ in range(2):
        outgoing = Endpoint("kafka", "orders"), (None, None, {}, None), None, tuple
        operation, _ = start_send(telemetry.instrumenter(), kafka_common.SEND, outgoing, PAIRS)
        assert operation is not None
        unanswered.add(operation)
    assert registered == [unanswered._leave]
    unanswered._leave()
    unanswered._leave()
    assert [span.attributes["hopspan.unanswered"] for span in telemetry.seen] == [True, True]


LEAVING = """
from kafka import KafkaProducer
from kafka.future import Future
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, BatchSpanProcessor

import hopspan


class Producer(KafkaProducer):
    def __init__(self):
        self.config = {"bootstrap_servers": "broker:9093", "client_id": "p1"}

    def send(self, topic, value=None, key=None, headers=None, partition=None, timestamp_ms=None):
        return Future()

    def close(self, *args, **kwargs):
        pass


provider = TracerProvider()
described = lambda span: f"{span.name} {dict(span.attributes).get('hopspan.unanswered')}\\n"
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=described)))
producer = hopspan.wrap(Producer(), tracer_provider=provider)
producer.send("orders", b"v")
producer.send("bills", b"v")
print("over")
"""


def test_sends_that_nobody_has_answered_end_with_the_process() -> None:
    """And before the SDK, which would lose them."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["over", "send orders True", "send bills True"]
    assert done.stderr == ""


# -- dead letters ----------------------------------------------------------------------------------


class Answering(Producer):
    """Each message is answered at once."""

    error: Exception | None = None

    def send(
        self,
        topic: Any,
        value: Any = None,
        key: Any = None,
        headers: Any = None,
        partition: Any = None,
        timestamp_ms: Any = None,
    ) -> Answer:
        future = super().send(topic, value, key, headers, partition, timestamp_ms)
        if self.error is None:
            future.success(Metadata())
        else:
            future.failure(self.error)
        return future


BAD = ValueError("bad")


def dead(producer: Any) -> dict[str, Any]:
    return {"policy": hopspan.dead_letter("dlt", producer=producer)}


def test_a_dead_letter_is_the_record_and_where_it_is_from(
    consumer: Consumer, state: ConsumerState, handling: Handle, telemetry: Telemetry
) -> None:
    producer = Answering()
    (first,) = polled(consumer, record(10, headers=[("a", b"1")], key=None, value=None))
    handling(first, **dead(producer)).conclude(BAD)
    ((topic, value, key, headers, partition, timestamp),) = producer.sent
    assert (topic, value, key, partition, timestamp) == ("dlt", None, None, None, None)
    assert [pair for pair in headers if pair[0] != "traceparent"] == [
        ("a", b"1"),
        ("hopspan.origin.topic", b"orders"),
        ("hopspan.origin.partition", b"0"),
        ("hopspan.origin.offset", b"10"),
        ("hopspan.error.type", b"ValueError"),
        ("hopspan.attempt", b"1"),
    ]
    consumer.close()
    assert consumer.commits() == [{ORDERS: 11}]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_dead_letter_carries_the_trace_once(
    wrapped: bool, consumer: Consumer, state: ConsumerState, telemetry: Telemetry
) -> None:
    """A producer that nobody has wrapped is traced for this."""
    producer = Answering()
    if wrapped:
        hopspan.wrap(producer, **telemetry.settings)
    (first,) = polled(consumer, record(10))
    settings: Any = {**dead(producer), **telemetry.settings}
    with (
        pytest.raises(ValueError, match="bad"),
        hopspan.process(first, via=consumer, **settings) as operation,
    ):
        raise BAD
    carried = [value for key, value in producer.sent[0][3] if key == "traceparent"]
    assert len(carried) == 1
    assert f"{operation.span.get_span_context().trace_id:032x}".encode() in carried[0]


@pytest.mark.parametrize(
    ("config", "seconds"),
    [({}, 121.0), ({"delivery_timeout_ms": 5_000}, 6.0), ({"delivery_timeout_ms": None}, 121.0)],
)
def test_a_dead_letter_is_waited_for_a_little_longer_than_the_producer_does(
    config: Any, seconds: float, consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    producer = Answering(**config)
    (first,) = polled(consumer, record(10))
    handling(first, **dead(producer)).conclude(BAD)
    assert producer.answers[0].timeout == seconds


def test_a_record_whose_copy_could_not_be_published_is_handed_out_again(
    consumer: Consumer, state: ConsumerState, handling: Handle, logged: pytest.LogCaptureFixture
) -> None:
    producer = Answering()
    producer.error = NotLeaderForPartitionError("moved")
    (first,) = polled(consumer, record(10))
    processing = handling(first, **dead(producer))
    processing.conclude(BAD)
    assert (processing.settled, consumer.asked("seek", "pause")) == (
        False,
        [("seek", ORDERS, 10), ("pause", ORDERS)],
    )
    assert state.tracker.partitions.frontiers[ORDERS].attempt(10) == 2
    consumer.close()
    assert consumer.commits() == []


def test_attempts_before_a_dead_letter_are_told(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    producer = Answering()
    then = hopspan.dead_letter("dlt", producer=producer)
    policy = hopspan.requeue_times(1, then=then)
    for _ in range(2):
        (first,) = polled(consumer, record(10))
        handling(first, policy=policy).conclude(BAD)
    ((*_, headers, _, _),) = producer.sent
    assert dict(headers)["hopspan.attempt"] == b"2"


def test_a_producer_of_another_kind_will_do(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """Whatever has the interface: for tests, or a wrapper of the user's."""

    class Mine:
        def __init__(self) -> None:
            self.config: dict[str, Any] = {}
            self.sent: list[Any] = []

        def send(self, topic: str, **given: Any) -> Answer:
            self.sent.append((topic, given["value"]))
            answer = Answer()
            answer.success(Metadata())
            return answer

    mine = Mine()
    (first,) = polled(consumer, record(10))
    processing = handling(first, **dead(mine))
    processing.conclude(BAD)
    assert (mine.sent, processing.settled) == ([("dlt", b"v")], True)


def test_a_verdict_of_ones_own_has_the_policys_target(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    producer = Answering()
    target = ("dlt", producer)
    policy = hopspan.Policy(
        "mine", lambda outcome, of: Verdict.REJECT, {Verdict.REJECT}, target=target
    )
    (first,) = polled(consumer, record(10))
    handling(first, policy=policy).conclude(BAD)
    assert [each[0] for each in producer.sent] == ["dlt"]


def test_partitions_are_the_clients_own_values() -> None:
    """The tests above compare with them."""
    assert TopicPartition("orders", 0) == ORDERS
