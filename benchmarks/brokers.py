"""The whole way through a real broker: messages a second and CPU of the client. A report, no gate."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

import pika
from kafka import KafkaConsumer, KafkaProducer
from opentelemetry.instrumentation.pika import PikaInstrumentor

import hopspan
from benchmarks.clients import kafka as kafka_rows
from benchmarks.modes import SAMPLED, Telemetry

TURN, TURNS = 400, 25
"""Messages of a turn, and turns of each row. The rows take turns in a new random order."""

Way = tuple[Callable[[], None], Callable[[], None]]
"""Publish a turn's messages; consume them."""


class Figures(NamedTuple):
    """Of one row: seconds for a message, publishing and consuming."""

    wall: list[float]
    cpu: list[float]


def _rabbitmq(url: str, telemetry: Telemetry) -> Iterator[tuple[str, Way]]:
    def plain(channel: Any) -> Any:
        return channel

    def contrib(channel: Any) -> Any:
        PikaInstrumentor.instrument_channel(channel, tracer_provider=telemetry.tracer_provider)
        return channel

    def ours(channel: Any, **settings: Any) -> Any:
        return hopspan.wrap(channel, **telemetry.providers, **settings)

    yield "bare", _through_rabbitmq(url, plain)
    yield "contrib", _through_rabbitmq(url, contrib)
    yield "hopspan", _through_rabbitmq(url, lambda channel: ours(channel, metrics=False))
    yield "hopspan + metrics", _through_rabbitmq(url, ours)


def _through_rabbitmq(url: str, instrument: Callable[[Any], Any]) -> Way:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    queue = f"bench-{uuid.uuid4().hex[:8]}"
    sender, receiver = instrument(connection.channel()), instrument(connection.channel())
    sender.queue_declare(queue, exclusive=True)
    receiver.basic_qos(prefetch_count=100)
    left = 0

    def handle(channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        nonlocal left
        channel.basic_ack(method.delivery_tag)
        left -= 1
        if not left:
            channel.stop_consuming()

    def publish() -> None:
        for _ in range(TURN):
            sender.basic_publish("", queue, b"x" * 256, pika.BasicProperties(headers={}))

    def consume() -> None:
        nonlocal left
        left = TURN
        receiver.basic_consume(queue, handle)
        receiver.start_consuming()

    return publish, consume


def _kafka(bootstrap: str, telemetry: Telemetry) -> Iterator[tuple[str, Way]]:
    send = kafka_rows.wrapped_by_contrib(telemetry, KafkaProducer, "send")
    receive = kafka_rows.wrapped_by_contrib(telemetry, KafkaConsumer, "__next__")

    def ours(client: Any, **settings: Any) -> Any:
        return hopspan.wrap(client, **telemetry.providers, **settings)

    yield "bare", _through_kafka(bootstrap, KafkaProducer, KafkaConsumer, lambda client: client)
    yield "contrib", _through_kafka(bootstrap, send, receive, lambda client: client)
    yield (
        "hopspan",
        _through_kafka(
            bootstrap, KafkaProducer, KafkaConsumer, lambda client: ours(client, metrics=False)
        ),
    )
    yield "hopspan + metrics", _through_kafka(bootstrap, KafkaProducer, KafkaConsumer, ours)


def _through_kafka(
    bootstrap: str, producing: Any, consuming: Any, instrument: Callable[[Any], Any]
) -> Way:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    producer = instrument(producing(bootstrap_servers=bootstrap))
    consumer = instrument(
        consuming(bootstrap_servers=bootstrap, group_id=topic, auto_offset_reset="earliest")
    )
    producer.send(topic, b"first").get(30)
    consumer.subscribe([topic])
    next(iter(consumer))

    def publish() -> None:
        for _ in range(TURN):
            producer.send(topic, b"x" * 256)
        producer.flush()

    def consume() -> None:
        for _, _record in zip(range(TURN), consumer, strict=False):
            pass

    return publish, consume


BROKERS: dict[str, tuple[str, Callable[[str, Telemetry], Iterator[tuple[str, Way]]]]] = {
    "RabbitMQ, pika": ("TEST_RABBITMQ_URL", _rabbitmq),
    "Kafka, kafka-python": ("TEST_KAFKA_BOOTSTRAP", _kafka),
}


def measure_brokers(turns: int = TURNS) -> dict[str, dict[str, Figures]]:
    """By broker and row. Brokers of which the environment says nothing are left out."""
    telemetry = Telemetry(SAMPLED)
    found = {}
    for broker, (variable, make) in BROKERS.items():
        if variable in os.environ:
            ways = dict(make(os.environ[variable], telemetry))
            figures = {name: Figures([], []) for name in ways}
            for turn in range(turns + 1):
                for name in random.sample(list(ways), len(ways)):
                    wall, cpu = _turn(ways[name], telemetry)
                    if turn:  # the first one is to warm up
                        figures[name].wall.append(wall)
                        figures[name].cpu.append(cpu)
            found[broker] = figures
    telemetry.close()
    return found


def _turn(way: Way, telemetry: Telemetry) -> tuple[float, float]:
    began, clock = process_time(), perf_counter()
    for step in way:
        step()
    telemetry.flush()
    return (perf_counter() - clock) / TURN, (process_time() - began) / TURN


def report(found: dict[str, dict[str, Figures]]) -> str:
    """Messages a second, CPU of the client, and both as parts of bare."""
    lines = [f"{'':32}{'messages/s':>12}{'CPU µs':>9}{'wall/bare':>11}{'CPU/bare':>10}"]
    for broker, figures in found.items():
        lines.append(f"{broker}, published and consumed, sampled")
        bare = figures["bare"]
        for name, each in figures.items():
            wall = median(a / b for a, b in zip(each.wall, bare.wall, strict=True))
            cpu = median(a / b for a, b in zip(each.cpu, bare.cpu, strict=True))
            lines.append(
                f"  {name:30}{1 / median(each.wall):12,.0f}{median(each.cpu) * 1e6:9.0f}"
                f"{wall:11.2f}{cpu:10.2f}"
            )
    return "\n".join(lines)
