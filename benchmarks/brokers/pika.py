"""RabbitMQ with pika: a blocking connection, each message acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pika
from opentelemetry.instrumentation.pika import PikaInstrumentor

import hopspan
from benchmarks.brokers.turns import BODY, TURN, Turn, fresh_name, timed
from benchmarks.modes import Telemetry


def turns(url: str, telemetry: Telemetry) -> Iterator[tuple[str, Turn]]:
    """The rows."""

    def contrib(channel: Any) -> Any:
        PikaInstrumentor.instrument_channel(channel, tracer_provider=telemetry.tracer_provider)
        return channel

    def ours(channel: Any, **settings: Any) -> Any:
        return hopspan.wrap(channel, **telemetry.providers, **settings)

    for name, instrument in {
        "bare": lambda channel: channel,
        "contrib": contrib,
        "hopspan": lambda channel: ours(channel, metrics=False),
        "hopspan + metrics": ours,
    }.items():
        yield name, timed(name, telemetry, *_steps(url, instrument))


def _steps(
    url: str, instrument: Callable[[Any], Any]
) -> tuple[Callable[[], None], Callable[[], None]]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    queue = fresh_name()
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
            sender.basic_publish("", queue, BODY, pika.BasicProperties(headers={}))

    def consume() -> None:
        nonlocal left
        left = TURN
        receiver.basic_consume(queue, handle)
        receiver.start_consuming()

    return publish, consume
