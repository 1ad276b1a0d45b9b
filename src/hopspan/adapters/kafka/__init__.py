"""kafka-python 2.2.21 and newer: `KafkaProducer` and `KafkaConsumer`.

A producer's `send` is intercepted like any other publish. A consumer is tracked as well: what it
hands out, and what the application commits and seeks, decides what hopspan may commit.
"""

from hopspan.adapters import kafka_common
from hopspan.adapters.kafka.points import POINTS, prepare
from hopspan.adapters.kafka.producer import error_type
from hopspan.adapters.kafka.record import (
    closed,
    delivery,
    given,
    handed,
    hop,
    is_open,
    opened,
    owner,
    refusal,
    same,
    settle,
    settles_by_itself,
)
from hopspan.interception import Point
from hopspan.propagation import PAIRS

NAME = "kafka"
SYSTEM = kafka_common.SYSTEM
CODEC = PAIRS
ASYNCHRONOUS = False
SETTLE_NAMES = kafka_common.SETTLE_NAMES
SETTLED_ALREADY = kafka_common.SETTLED_ALREADY
CONTROL_FLOW: tuple[type[BaseException], ...] = ()
RAISES = None
SIGNALS = None
RIVALS = ("kafka.producer.kafka:KafkaProducer.send", "kafka.consumer.group:KafkaConsumer.__next__")
INSTANCE_POINTS: tuple[Point, ...] = ()

__all__ = [
    "ASYNCHRONOUS", "CODEC", "CONTROL_FLOW", "INSTANCE_POINTS", "NAME", "POINTS", "RAISES",
    "RIVALS", "SETTLED_ALREADY", "SETTLE_NAMES", "SIGNALS", "SYSTEM", "closed", "delivery",
    "error_type", "given", "handed", "hop", "is_open", "opened", "owner", "prepare", "refusal",
    "same", "settle", "settles_by_itself",
]  # fmt: skip
