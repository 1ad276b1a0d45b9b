"""Kafka with kafka-python: sent and flushed, and read by a member of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

import hopspan
from benchmarks.brokers.turns import BODY, TURN, Turn, fresh_name, timed
from benchmarks.clients.kafka import wrapped_by_contrib
from benchmarks.modes import Telemetry


def turns(bootstrap: str, telemetry: Telemetry) -> Iterator[tuple[str, Turn]]:
    """The rows."""

    def ours(client: Any, **settings: Any) -> Any:
        return hopspan.wrap(client, **telemetry.providers, **settings)

    for name, instrument, send, receive in (
        ("bare", _as_it_is, KafkaProducer, KafkaConsumer),
        (
            "contrib",
            _as_it_is,
            wrapped_by_contrib(telemetry, KafkaProducer, "send"),
            wrapped_by_contrib(telemetry, KafkaConsumer, "__next__"),
        ),
        ("hopspan", lambda client: ours(client, metrics=False), KafkaProducer, KafkaConsumer),
        ("hopspan + metrics", ours, KafkaProducer, KafkaConsumer),
    ):
        yield name, timed(name, telemetry, *_steps(bootstrap, send, receive, instrument))


def _as_it_is(client: Any) -> Any:
    return client


def _steps(
    bootstrap: str, producing: Any, consuming: Any, instrument: Callable[[Any], Any]
) -> tuple[Callable[[], None], Callable[[], None]]:
    topic = fresh_name()
    producer = instrument(producing(bootstrap_servers=bootstrap))
    consumer = instrument(
        consuming(bootstrap_servers=bootstrap, group_id=topic, auto_offset_reset="earliest")
    )
    producer.send(topic, b"first").get(30)
    consumer.subscribe([topic])
    next(iter(consumer))

    def publish() -> None:
        for _ in range(TURN):
            producer.send(topic, BODY)
        producer.flush()

    def consume() -> None:
        for _, _record in zip(range(TURN), consumer, strict=False):
            pass

    return publish, consume
