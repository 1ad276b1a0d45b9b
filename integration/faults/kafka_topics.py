"""What the chaos wants of Kafka: topics with records, what is in them, and what was committed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from kafka.structs import TopicPartition

from integration.faults.kafka_commit_log import commit_of
from integration.faults.kafka_ledger import Commit, DeadLetter, Place, trace_of
from integration.faults.waiting import wait

COMMITS = "__consumer_offsets"
TRANSACTION = 500
"""So many records are published in one transaction; its end leaves a gap in the offsets."""


class Topics:
    """A topic with its dead-letter topic, which nobody else uses."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self.bootstrap = bootstrap
        self.topic = f"chaos-{uuid.uuid4().hex[:8]}"
        self.dead, self.group = f"{self.topic}.dead", f"{self.topic}.group"
        self.partitions = [TopicPartition(self.topic, number) for number in range(partitions)]
        # The broker's clock, not the producer's: when the copy was taken, not when it was made.
        taken = {"message.timestamp.type": "LogAppendTime"}
        topics = [
            NewTopic(self.topic, partitions, 1),
            NewTopic(self.dead, partitions, 1, topic_configs=taken),
        ]
        with _closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            admin.create_topics(topics)

    def publish(self, records: int) -> dict[Place, int]:
        """Publish the records, each in a trace of its own; return which is where."""
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap,
            transactional_id=self.topic,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
        )
        with _closing(producer):
            producer.init_transactions()
            sent: list[Any] = []
            for first in range(0, records, TRANSACTION):
                producer.begin_transaction()
                last = min(first + TRANSACTION, records)
                sent += [self._send(producer, number) for number in range(first, last)]
                producer.commit_transaction()
        metadata = [future.get() for future in sent]
        return {(each.partition, each.offset): number for number, each in enumerate(metadata)}

    def _send(self, producer: Any, number: int) -> Any:
        text = str(number).encode()
        headers = [
            ("traceparent", f"00-{trace_of(number)}-{1:016x}-01".encode()),
            ("baggage", b"number=" + text),
            ("kept", text),
        ]
        partition = self.partitions[number % len(self.partitions)].partition
        return producer.send(self.topic, text, key=text, headers=headers, partition=partition)

    def dead_letters(self) -> list[DeadLetter]:
        """Everything in the dead-letter topic."""
        return [_dead_letter(record) for record in _contents(self.bootstrap, self.dead)]

    def commits(self) -> list[Commit]:
        """Every commit of the group that the broker has written down."""
        log = _contents(self.bootstrap, COMMITS)
        found = [commit_of(self.group, record.key, record.value) for record in log]
        return [commit for commit in found if commit is not None]


def _contents(bootstrap: str, topic: str) -> list[Any]:
    """Return what is in a topic now, partition by partition in its order."""
    found: list[Any] = []
    with _closing(KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)) as consumer:
        numbers = wait(lambda: consumer.partitions_for_topic(topic), f"topic {topic}")
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=200).values():
                found += records
    return found


def _dead_letter(record: Any) -> DeadLetter:
    headers = {name: value.decode() for name, value in record.headers}
    return DeadLetter(
        (
            headers["hopspan.origin.topic"],
            int(headers["hopspan.origin.partition"]),
            int(headers["hopspan.origin.offset"]),
        ),
        record.key,
        record.value,
        headers["traceparent"].split("-")[1],
        headers["hopspan.error.type"],
        int(headers["hopspan.attempt"]),
        headers.get("kept"),
        record.timestamp / 1000,
    )


@contextlib.contextmanager
def _closing(client: Any) -> Iterator[Any]:
    try:
        yield client
    finally:
        client.close()
