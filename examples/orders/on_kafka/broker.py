"""Where the services meet: the topic of the orders, and one for what the fulfilment gives up."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import closing, suppress

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

import hopspan

SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092").split(",")
PREFIX = os.environ.get("ORDERS_PREFIX", "demo.")  # not to be mistaken for a real shop's topics

ORDERS = f"{PREFIX}orders"
DEAD_LETTERS = f"{PREFIX}dead-letters"

# After each record, and wait for it: an order is worth a round trip. The default is once a second.
AT_ONCE = hopspan.Commits(every=1, wait=True)


def declare() -> None:
    """Make the topics. Every service does, because none of them knows who comes first."""
    with closing(KafkaAdminClient(bootstrap_servers=SERVERS)) as admin:
        for topic in (ORDERS, DEAD_LETTERS):
            with suppress(TopicAlreadyExistsError):
                admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=1)])


def producer() -> KafkaProducer:
    """A producer whose sends are done when every replica in sync has the record."""
    return KafkaProducer(bootstrap_servers=SERVERS, acks="all")


def consumer(topic: str, group: str, *, greeting: str) -> KafkaConsumer:
    """A consumer that commits nothing by itself: hopspan commits what is done."""
    consumer = KafkaConsumer(
        bootstrap_servers=SERVERS,
        group_id=PREFIX + group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        # As short as Kafka allows: the embedded broker makes a new group wait for half of it.
        session_timeout_ms=6000,
        heartbeat_interval_ms=2000,
    )
    consumer.subscribe([topic], listener=Greeting(greeting))
    return consumer


class Greeting(ConsumerRebalanceListener):
    """Says so when the group has given us partitions. From then on, records come at once."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def on_partitions_assigned(self, assigned: Collection[object]) -> None:
        """This is our share, for now. It may be none, before the topic is known."""
        if assigned:
            print(self.greeting, flush=True)

    def on_partitions_revoked(self, revoked: Collection[object]) -> None:
        """Somebody else may have them. There is nothing to tidy up."""
