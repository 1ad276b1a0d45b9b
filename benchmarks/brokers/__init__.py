"""The whole way through a real broker: messages a second and CPU of the client. A report, no gate."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from benchmarks.brokers import aio_pika, celery, kafka, pika
from benchmarks.brokers.turns import MakeTurns, Turn
from benchmarks.modes import SAMPLED, Telemetry

TURNS = 25
"""Of each row. The rows take turns in a new random order."""

_RABBITMQ, _KAFKA = "TEST_RABBITMQ_URL", "TEST_KAFKA_BOOTSTRAP"
BROKERS: dict[str, tuple[str, MakeTurns]] = {
    "RabbitMQ, pika": (_RABBITMQ, pika.turns),
    "RabbitMQ, aio-pika": (_RABBITMQ, aio_pika.turns),
    "RabbitMQ, Celery": (_RABBITMQ, celery.turns),
    "Kafka, kafka-python": (_KAFKA, kafka.turns),  # last: its threads go on
}


class Figures(NamedTuple):
    """Of one row: seconds for a message, published and consumed, one for each turn."""

    wall: list[float]
    cpu: list[float]


class Summary(NamedTuple):
    """Of one row, for people."""

    broker: str
    row: str
    rate: float
    """Messages a second."""
    cpu: float
    """Seconds of the client for a message."""
    wall_of_bare: float
    cpu_of_bare: float


def measure_brokers(turns: int = TURNS) -> dict[str, dict[str, Figures]]:
    """By broker and row. Brokers of which the environment says nothing are left out."""
    found = {}
    for broker, (variable, make) in BROKERS.items():
        if variable in os.environ:
            telemetry = Telemetry(SAMPLED)
            found[broker] = _measured(dict(make(os.environ[variable], telemetry)), turns)
            telemetry.close()
    return found


def _measured(rows: dict[str, Turn], turns: int) -> dict[str, Figures]:
    figures = {name: Figures([], []) for name in rows}
    for _ in range(turns):
        for name in random.sample(list(rows), len(rows)):
            wall, cpu = rows[name]()
            figures[name].wall.append(wall)
            figures[name].cpu.append(cpu)
    return figures


def summaries(found: dict[str, dict[str, Figures]]) -> list[Summary]:
    """Medians; parts of bare are of the same turn."""
    return [
        Summary(
            broker,
            name,
            1 / median(each.wall),
            median(each.cpu),
            _part(each.wall, figures["bare"].wall),
            _part(each.cpu, figures["bare"].cpu),
        )
        for broker, figures in found.items()
        for name, each in figures.items()
    ]


def _part(values: Iterable[float], bare: Iterable[float]) -> float:
    return median(each / less for each, less in zip(values, bare, strict=True))


def report(found: dict[str, dict[str, Figures]]) -> str:
    """Messages a second, CPU of the client, and both as parts of bare."""
    lines = [
        f"{'published and consumed, sampled':40}{'messages/s':>12}{'CPU µs':>9}"
        f"{'wall/bare':>11}{'CPU/bare':>10}"
    ]
    lines += [
        f"{each.broker + ', ' + each.row:40}{each.rate:12,.0f}{each.cpu * 1e6:9.0f}"
        f"{each.wall_of_bare:11.2f}{each.cpu_of_bare:10.2f}"
        for each in summaries(found)
    ]
    return "\n".join(lines)
