"""kafka-python 2.2.21 and newer: `KafkaProducer` and `KafkaConsumer`.

A producer's `send` is intercepted like any other publish. A consumer is tracked as well: what it
hands out, and what the application commits and seeks, decides what hopspan may commit.
"""

from hopspan.adapters import _kafka
from hopspan.adapters.kafka.calls import iterate, keep_loop, next_record, poll, prepare, source_of
from hopspan.adapters.kafka.deliveries import (
    closed,
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
from hopspan.adapters.kafka.describing import delivery
from hopspan.adapters.kafka.errors import error_type
from hopspan.adapters.kafka.sending import completes, send
from hopspan.interception import Point, iterates, receives, sends
from hopspan.propagation import PAIRS

NAME = "kafka"
SYSTEM = _kafka.SYSTEM
CODEC = PAIRS
ASYNCHRONOUS = False
SETTLE_NAMES = _kafka.SETTLE_NAMES
SETTLED_ALREADY = _kafka.SETTLED_ALREADY
CONTROL_FLOW: tuple[type[BaseException], ...] = ()
RAISES = None
SIGNALS = None
RIVALS = ("kafka.producer.kafka:KafkaProducer.send", "kafka.consumer.group:KafkaConsumer.__next__")

_CONSUMER = "kafka.consumer.group:KafkaConsumer"

POINTS = (
    Point("kafka.producer.kafka:KafkaProducer", "send", sends(_kafka.SEND, send, completes), send),
    Point(_CONSUMER, "poll", receives(poll), poll),
    Point(_CONSUMER, "__iter__", iterates(iterate, keep_loop, source_of), iterate),
    Point(_CONSUMER, "__next__", receives(next_record, (StopIteration,)), next_record),
)

INSTANCE_POINTS: tuple[Point, ...] = ()

__all__ = [
    "ASYNCHRONOUS", "CODEC", "CONTROL_FLOW", "INSTANCE_POINTS", "NAME", "POINTS", "RAISES",
    "RIVALS", "SETTLED_ALREADY", "SETTLE_NAMES", "SIGNALS", "SYSTEM", "closed", "delivery",
    "error_type", "given", "handed", "hop", "is_open", "opened", "owner", "prepare", "refusal",
    "same", "settle", "settles_by_itself",
]  # fmt: skip
