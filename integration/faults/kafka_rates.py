"""What each commit strategy costs: records per second, against the bare client's.

Each measurement is a process of its own with a group of its own, on records that are there already,
and a handler that does nothing: all of the difference is hopspan. It records spans with the SDK and
drops them in batches. Several rounds, of which the median counts.

A measurement is started as `python -m integration.faults.kafka_rates SETTINGS`, with a JSON object
of the fields of `Settings`, and prints the records per second.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import OffsetAndMetadata, TopicPartition
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import hopspan
from integration.faults.kafka_topics import Topics
from integration.faults.kafka_worker import COMMITS

ROOT = Path(__file__).resolve().parents[2]
AGAINST = {"default": "bare auto", "every": "bare auto", "record": "bare record"}
"""What a strategy is compared with: the bare client that commits in the background, or that waits
for each commit."""
SLOW = 10
"""Who waits for the broker after each record is measured with so much fewer of them."""
ROUNDS = 3


class Settings(NamedTuple):
    """What is to be measured."""

    bootstrap: str
    topic: str
    dead: str
    records: int
    way: str
    """A strategy, or `bare auto` or `bare record`."""


class Rate(NamedTuple):
    """What a way to commit achieves."""

    way: str
    per_second: float
    against: str
    ratio: float
    """To the bare client's."""

    def __str__(self) -> str:
        against = f"  {self.ratio:5.2f} of {self.against}" if self.against else ""
        return f"{self.way:12}{self.per_second:>10,.0f} records/s{against}"


class Nowhere(SpanExporter):
    """Exports nothing: another process would do it, and is not what is measured."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def rates(bootstrap: str, records: int, rounds: int = ROUNDS) -> list[Rate]:
    """Measure every strategy, and the bare client."""
    topics = Topics(bootstrap, 6)
    topics.publish(records)
    found: dict[str, list[float]] = {way: [] for way in ("bare auto", "bare record", *COMMITS)}
    for _ in range(rounds):
        for way, measured in found.items():
            count = records // SLOW if way.endswith("record") else records
            measured.append(_measured(Settings(bootstrap, topics.topic, topics.dead, count, way)))
    medians = {way: statistics.median(measured) for way, measured in found.items()}
    return [_rate(way, medians) for way in medians]


def _rate(way: str, medians: dict[str, float]) -> Rate:
    against = AGAINST.get(way, "")
    return Rate(way, medians[way], against, medians[way] / medians[against] if against else 1.0)


def _measured(settings: Settings) -> float:
    arguments = [sys.executable, "-m", "integration.faults.kafka_rates"]
    done = subprocess.run(
        [*arguments, json.dumps(settings._asdict())],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    return float(done.stdout)


def measure(settings: Settings) -> float:
    """Consume so many records, and return how many a second: from the first one to the last."""
    consumer: Any = KafkaConsumer(
        settings.topic,
        bootstrap_servers=settings.bootstrap,
        group_id=uuid.uuid4().hex,
        enable_auto_commit=settings.way == "bare auto",
        auto_commit_interval_ms=1000,
        auto_offset_reset="earliest",
    )
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap)
    consumer, handle = _taking(settings, consumer, producer)
    began = 0.0
    for count, record in enumerate(consumer, 1):
        began = began or time.perf_counter()
        handle(record)
        if count == settings.records:
            break
    seconds = time.perf_counter() - began
    consumer.close()
    producer.close()
    return settings.records / seconds


def _taking(settings: Settings, consumer: Any, producer: Any) -> tuple[Any, Any]:
    """Return the consumer to iterate over, and what is to be done with each record."""
    if settings.way.startswith("bare"):
        waits = settings.way == "bare record"
        return consumer, (lambda record: _commit(consumer, record)) if waits else lambda _: None
    consumer = hopspan.wrap(consumer, commits=COMMITS[settings.way])
    to_dead = hopspan.dead_letter(settings.dead, producer=producer)
    policy = hopspan.requeue_times(2, then=to_dead)

    def handle(record: Any) -> None:
        with hopspan.process(record, via=consumer, policy=policy):
            pass

    return consumer, handle


def _commit(consumer: Any, record: Any) -> None:
    partition = TopicPartition(record.topic, record.partition)
    consumer.commit({partition: OffsetAndMetadata(record.offset + 1, "", -1)})


def main(arguments: list[str]) -> None:
    """Measure one way, in this process."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    print(measure(Settings(**json.loads(arguments[0]))))  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1:])
