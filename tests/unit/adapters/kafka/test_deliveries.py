"""Reading the records that kafka-python hands out, and what is refused before a handler runs."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import errors

import hopspan
from hopspan.adapters.kafka import ADAPTER, KafkaRecord
from hopspan.adapters.kafka.consumer import ConsumerState, state_of, track
from hopspan.adapters.kafka.producer import CLIENT, error_type
from hopspan.delivery import failure
from hopspan.delivery.batch import handed
from hopspan.model import Endpoint, Outcome, PolicyError, Settlement, Verdict
from hopspan.offsets import RevokedError
from tests.unit.adapters.kafka.conftest import (
    ORDERS,
    OTHERS,
    Consumer,
    Handle,
    found,
    polled,
    record,
)
from tests.unit.support import Telemetry

# -- what is a delivery ----------------------------------------------------------------------------

TEN, ELEVEN, TWENTY = record(10), record(11), record(20, partition=1)


def records_of(delivery: Any) -> Any:
    if not delivery:
        return delivery
    return [each.record for each in delivery.deliveries]


@pytest.mark.parametrize(
    ("message", "records"),
    [
        (TEN, [TEN]),
        ([TEN, ELEVEN], [TEN, ELEVEN]),
        ((TEN, ELEVEN), [TEN, ELEVEN]),
        ({ORDERS: [TEN, ELEVEN], OTHERS: [TWENTY]}, [TEN, ELEVEN, TWENTY]),
        ([], ()),
        ({}, ()),
        ({ORDERS: []}, ()),
        ("text", None),
        (3, None),
        ([TEN, "text"], None),
        ({"a": "b"}, None),
        ({"a": ["b"]}, None),
        (None, None),
    ],
)
def test_a_record_a_batch_or_a_poll_is_given(
    message: Any, records: Any, consumer: Consumer
) -> None:
    assert records_of(found(message, consumer)) == records


@pytest.mark.parametrize(
    ("args", "records"),
    [
        ((TEN,), [TEN]),
        (("self", [TEN, ELEVEN]), [TEN, ELEVEN]),
        (("self", {ORDERS: [TEN]}, "more"), [TEN]),
        (([], TEN), [TEN]),
        (("self",), None),
        ((), None),
        (([],), None),
    ],
)
def test_a_handlers_record_is_found_among_its_arguments(
    args: Any, records: Any, consumer: Consumer
) -> None:
    assert records_of(handed(ADAPTER.delivery, args, consumer)) == records


def test_a_record_knows_its_consumer_where_that_is_given(consumer: Consumer) -> None:
    native = found(TEN, consumer)
    assert (native.consumer, native.source) == (consumer, consumer)
    assert native.frontier is state_of(consumer).tracker.partitions.frontiers[ORDERS]  # type: ignore[union-attr]


def test_a_record_knows_its_consumer_where_that_has_handed_it_out(
    consumer: Consumer, state: ConsumerState
) -> None:
    (first,) = polled(consumer, record(10))
    native = found(first, None)
    assert native.consumer is consumer


@pytest.mark.parametrize("via", [None, "text", object()])
def test_a_record_of_nobodys_does_not(via: Any) -> None:
    native = found(TEN, via)
    assert (native.record, native.consumer, native.frontier) == (TEN, None, None)


def test_one_hand_over_is_one_delivery(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """Another record at the same offset is another one, though they are equal."""
    (mine,) = polled(consumer, record(10))
    going_on = handling(mine)
    assert found(mine, consumer).ongoing() is going_on
    assert found(record(10), consumer).ongoing() is None
    going_on.conclude()
    assert found(mine, consumer).ongoing() is None


def test_one_hand_over_is_one_delivery_where_nobody_knows_the_consumer(handling: Handle) -> None:
    mine = record(10, topic="nobodys")
    going_on = handling(mine, via=None, policy=hopspan.manual)
    assert found(mine).ongoing() is going_on
    assert found(record(10, topic="nobodys")).ongoing() is None
    going_on.conclude()
    assert found(mine).ongoing() is None


# -- as a value ------------------------------------------------------------------------------------


def said_of(delivery: Any) -> dict[str, Any]:
    """What a span of its own says of a record, without what its topic says."""
    attributes: dict[str, Any] = {}
    delivery.describe_message(attributes)
    return attributes


def test_a_record_as_a_value(consumer: Consumer) -> None:
    headers = [("a", b"1")]
    native = found(record(10, headers=headers), consumer)
    assert native.endpoint == Endpoint(
        "kafka", "orders", group="billing", server_address="broker", server_port=9093
    )
    assert said_of(native) == {
        "messaging.client.id": "c1",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 10,
    }
    assert native.key == ("messaging.kafka.message.key", "k")
    assert native.headers is headers
    assert (native.redelivered, native.attempt, native.settles, native.counted) == (
        False,
        1,
        True,
        False,
    )


def test_a_record_without_a_consumer_as_a_value() -> None:
    native = found(record(10))
    assert (native.endpoint, native.settles, native.attempt) == (
        Endpoint("kafka", "orders"),
        True,
        1,
    )
    assert "messaging.client.id" not in said_of(native)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, {"messaging.kafka.message.tombstone": True}), (b"", {}), (b"v", {}), (0, {})],
)
def test_a_tombstone_is_told_and_only_then(value: Any, said: Any, consumer: Consumer) -> None:
    attributes = said_of(found(record(10, value=value), consumer))
    assert {key: attributes[key] for key in attributes if "tombstone" in key} == said


def test_the_cluster_is_told_as_soon_as_it_is_known(consumer: Consumer) -> None:
    cluster = type("Cluster", (), {"cluster_id": None})
    consumer._client = type("Client", (), {"cluster": cluster})
    track(consumer)
    key = "messaging.kafka.cluster.id"
    assert key not in said_of(found(record(10), consumer))
    cluster.cluster_id = "abc"
    assert [said_of(found(record(at), consumer))[key] for at in (11, 12)] == ["abc", "abc"]


@pytest.mark.parametrize(
    ("config", "settles"),
    [
        ({}, True),
        ({"enable_auto_commit": True}, False),
        ({"enable_auto_commit": True, "group_id": None}, True),
        ({"group_id": None}, True),
    ],
)
def test_what_the_client_commits_by_itself_is_settled_already(
    config: dict[str, Any], settles: bool
) -> None:
    consumer = Consumer(**config)
    assert found(TEN, consumer).settles is settles
    assert found([TEN, ELEVEN], consumer).settles is settles


# -- settling --------------------------------------------------------------------------------------


def test_a_record_of_nobodys_cannot_be_settled() -> None:
    native = KafkaRecord(TEN)
    with pytest.raises(RevokedError) as raised:
        native.settle(Settlement(Verdict.ACK))
    assert str(raised.value) == "the partition was revoked, or the consumer is closed"


def test_a_record_of_a_partition_that_went_cannot_be_settled(
    consumer: Consumer, state: ConsumerState
) -> None:
    native = found(TEN, consumer)
    assert native.is_open() is True
    state.tracker.revoke([ORDERS])
    assert native.is_open() is False
    with pytest.raises(RevokedError):
        native.settle(Settlement(Verdict.ACK))


def test_opening_and_closing_what_nobody_keeps_is_harmless(
    handling: Handle, telemetry: Telemetry
) -> None:
    handling(record(10), via=None, policy=hopspan.manual).conclude()
    assert len(telemetry.spans) == 1


def test_a_record_in_two_hands_is_open_until_both_are_closed(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """In a batch, and by itself."""
    (first,) = polled(consumer, record(10))
    one, other = handling(first, policy=hopspan.manual), handling(first, policy=hopspan.manual)
    handled = state.tracker.partitions.frontiers[ORDERS].handling
    assert handled == {10: [one, other]}
    one.conclude()
    assert handled == {10: [other]}
    other.conclude()
    assert handled == {}


def test_what_was_committed_by_oneself_is_settled_when_it_is_opened(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (first,) = polled(consumer, record(10))
    consumer.commit()
    processing = handling(first)
    processing.conclude()
    assert (processing.settled, processing.settled_by_policy) == (True, False)


# -- refusals --------------------------------------------------------------------------------------

CANNOT_REJECT = (
    "Kafka cannot reject a record. Say where it is to go: policy=hopspan.dead_letter(topic, "
    "producer=...), or hopspan.requeue_times(n, then=hopspan.dead_letter(...))"
)


@pytest.mark.parametrize(
    "policy",
    [
        hopspan.reject_on_error,
        hopspan.requeue_once,
        hopspan.requeue_times(3),
        hopspan.by_exception({ValueError: Verdict.REJECT}, default=hopspan.ack_always),
    ],
)
def test_a_rejection_needs_a_dead_letter_topic(policy: hopspan.Policy) -> None:
    assert KafkaRecord.refusal(policy) == CANNOT_REJECT


@pytest.mark.parametrize(
    "policy",
    [
        hopspan.ack_always,
        hopspan.manual,
        hopspan.dead_letter("dlt", producer=object()),
        hopspan.requeue_times(3, then=Verdict.ACK),
        hopspan.requeue_times(3, then=hopspan.dead_letter("dlt", producer=object()), pause=1),
    ],
)
def test_what_needs_none_or_has_one_can_work(policy: hopspan.Policy) -> None:
    assert KafkaRecord.refusal(policy) is None


def test_a_record_that_does_not_know_its_consumer_is_refused() -> None:
    assert KafkaRecord(TEN).unfit(hopspan.ack_always) == (
        "a record does not know its consumer. Give it as via=, or wrap the consumer with "
        "hopspan.wrap(consumer)"
    )


def test_a_policy_on_a_consumer_that_commits_by_itself_is_refused() -> None:
    consumer = Consumer(enable_auto_commit=True)
    with pytest.raises(PolicyError) as raised:
        hopspan.process(TEN, via=consumer, policy=hopspan.ack_always).__enter__()
    assert str(raised.value) == (
        "policy ack_always cannot settle for the consumer of orders: it has "
        "enable_auto_commit=True, so the client commits by itself whatever becomes of a record. "
        "Make the consumer with enable_auto_commit=False, or use policy=hopspan.manual"
    )


class Writing:
    """What hopspan looks at of a producer."""

    def __init__(self, **config: Any) -> None:
        self.config = config

    def send(self) -> None:
        """Never called."""


@pytest.mark.parametrize(
    ("producer", "fields", "refused"),
    [
        (Writing(), {}, None),
        (Writing(), {"key": None, "value": None}, None),
        (Writing(), {"key": bytearray(b"k"), "value": memoryview(b"v")}, None),
        (Writing(value_serializer=str), {"value": {"a": 1}}, None),
        (Writing(key_serializer=str), {"key": 3}, None),
        (
            Writing(key_serializer=str),
            {"value": {"a": 1}},
            "the consumer deserialises each value (this one is dict), and the producer of "
            "dead_letter('dlt') has no value_serializer to write it again. Give it one, or leave "
            "value_deserializer out of the consumer",
        ),
        (
            Writing(value_serializer=str),
            {"key": "k"},
            "the consumer deserialises each key (this one is str), and the producer of "
            "dead_letter('dlt') has no key_serializer to write it again. Give it one, or leave "
            "key_deserializer out of the consumer",
        ),
        (
            object(),
            {},
            "dead_letter('dlt', producer=...) needs a KafkaProducer, and was given object",
        ),
        (
            None,
            {},
            "dead_letter('dlt', producer=...) needs a KafkaProducer, and was given NoneType",
        ),
    ],
)
def test_a_producer_that_could_not_write_a_record_is_refused(
    producer: Any, fields: dict[str, Any], refused: str | None, consumer: Consumer
) -> None:
    """Before the handler runs: at the first failure it would be too late."""
    native = found(record(10, **fields), consumer)
    policy = hopspan.dead_letter("dlt", producer=producer)
    assert native.unfit(policy) == refused


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.NotLeaderForPartitionError("moved"), "NOT_LEADER_FOR_PARTITION"),
        (errors.MessageSizeTooLargeError("big"), "MESSAGE_SIZE_TOO_LARGE"),
        (errors.KafkaTimeoutError("late"), None),
        (ValueError("no"), None),
    ],
)
def test_the_brokers_word_for_an_error(error: BaseException, word: str | None) -> None:
    assert error_type(error) == word


def test_what_the_client_refused_by_itself_is_named_after_its_class() -> None:
    error = errors.KafkaTimeoutError("late")
    assert failure(CLIENT, error) == Outcome(
        True, error, "kafka.errors.KafkaTimeoutError", str(error)
    )
    refused = errors.NotCoordinatorError("moved")
    assert failure(CLIENT, refused) == Outcome(True, refused, "NOT_COORDINATOR", str(refused))


def test_it_is_the_attempt_that_the_handling_began_with(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    """Also where somebody else has concluded the same record since."""
    (mine,) = polled(consumer, record(10))
    frontier = state.tracker.partitions.frontiers[ORDERS]
    frontier.requeue(10)
    frontier.requeue(10)
    native = handling(mine, policy=hopspan.manual)
    frontier.conclude(10, None, None)
    assert (native.attempt, frontier.attempt(10)) == (3, 1)


def test_a_record_that_comes_again_while_it_is_handled_is_at_the_same_attempt(
    consumer: Consumer, state: ConsumerState, handling: Handle
) -> None:
    (mine,) = polled(consumer, record(10))
    earlier, later = handling(mine, policy=hopspan.manual), handling(mine, policy=hopspan.manual)
    for each in (earlier, later):
        each.settle(Settlement(Verdict.REQUEUE))
    assert state.tracker.partitions.frontiers[ORDERS].attempt(10) == 2
