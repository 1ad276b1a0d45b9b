"""kafka-python 2.2.21 and newer: `KafkaProducer` and `KafkaConsumer`.

A producer's `send` is intercepted like any other publish. A consumer is tracked as well: what it
hands out, and what the application commits and seeks, decides what hopspan may commit.
"""

from hopspan.adapters.kafka.points import POINTS, prepare
from hopspan.adapters.kafka.record import KafkaRecord, settles_by_itself
from hopspan.delivery import Adapter

ADAPTER = Adapter(
    KafkaRecord,
    points=POINTS,
    rivals=(
        "kafka.producer.kafka:KafkaProducer.send",
        "kafka.consumer.group:KafkaConsumer.__next__",
    ),
    prepare=prepare,
    settles_by_itself=settles_by_itself,
)

__all__ = ["ADAPTER", "KafkaRecord"]
