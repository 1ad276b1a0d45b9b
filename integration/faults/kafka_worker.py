"""The consumer under test, in a process of its own: fails, gets killed, writes all of it down.

Started as `python -m integration.faults.kafka_worker SETTINGS`, where SETTINGS is a JSON object with
the fields of `Settings`. Obeys lines on its standard input: `stop` (also its end, so that no worker
outlives its test) or `die POINT`, upon which it kills itself with SIGKILL in the next handler run
that comes to that point:

- `started`: the run is written down, and has not ended;
- `ended`: its end is on the disk, and nothing is concluded;
- `exporting`: its verdict is known, and its span is not written down.

A way to work is a style and a commit strategy. Styles:

- `iterator`: `for record in consumer`, each record in a `process` block;
- `poll`: a polled batch, each of its records in a `process` block;
- `each`: a polled batch through `hopspan.each`, each of its records in a `process` block;
- `batch`: a polled batch in one `process` block;
- `decorated`: a polled batch, each of its records given to a decorated handler;
- `deferred`: as `poll`, and the work is done in a thread pool;
- `bare`: no hopspan. `bare record` seeks back and dead-letters by hand, and commits each record
  before the next; `bare auto` is what the client does by itself, and loses what fails.

Strategies are those of `COMMITS`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

import hopspan
from integration.faults.kafka_ledger import ERROR_TYPES, Ledger, trace_of

THREADS = 4
WAITING = 16
"""How much deferred work may be open, before more is taken on."""
WAYS = {"returned": 91, "raised": 5, "failed": 2, "status": 2}
"""How a run ends, and how often: the last three are failures."""
AT_ONCE = {"iterator": 500, "batch": 5, "bare": 500}
"""How many records a poll may return. With seek-back, those after a failed one come again: the more
of them, the more work is done twice."""
UNSETTLED = ("handler failed", "could not ", "deferred work on a message ")
"""How the log lines begin that tell of failures which are expected here."""
LINGER_MS = 30
SLOW = 0.05
"""How often work in the pool takes its time, so that it ends after its partition has gone."""
SLOW_SECONDS = 0.5
SILENT_MS = 200
"""How long a poll may wait: as long as `stop` may go unnoticed."""

COMMITS = {
    "default": hopspan.Commits(),
    "every": hopspan.Commits(every=100),
    "record": hopspan.Commits(every=1, wait=True),
}
"""The commit strategies, by the names that they have in plans and reports."""


class Settings(NamedTuple):
    """What a worker is told."""

    bootstrap: str
    topic: str
    dead: str
    group: str
    ledger: str
    life: int
    seed: str
    way: str
    requeues: int
    poison: int
    session: float


class FailureError(Exception):
    """What a handler raises."""


class Exporter(SpanExporter):
    """Writes a line for each process span, before the span's end returns."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if span.kind is SpanKind.CONSUMER:
                self._worker.dies_at("exporting")
                self._worker.ledger.write("span", **_described(span))
        return SpanExportResult.SUCCESS


def _described(span: ReadableSpan) -> dict[str, Any]:
    return {
        "run": format_span_id(span.context.span_id),
        "trace": format_trace_id(span.context.trace_id),
        "parent": format_span_id(span.parent.span_id) if span.parent else None,
        "links": [format_trace_id(link.context.trace_id) for link in span.links],
        "error": span.status.status_code is StatusCode.ERROR,
        "type": (span.attributes or {}).get("error.type"),
    }


class Troubles(logging.Handler):
    """Writes down what hopspan logs only when something is wrong with hopspan."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        expected = record.getMessage().startswith(UNSETTLED)
        self._ledger.write("warned" if expected else "trouble", text=self.format(record))


class Listener(ConsumerRebalanceListener):
    """The user's own, which has to be told what the client tells."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._ledger.write("revoked", partitions=sorted(each.partition for each in revoked))

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._ledger.write("assigned", partitions=sorted(each.partition for each in assigned))


class Worker:
    """Consumes until it is told to stop; begins anew after every error of the client."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(Path(settings.ledger))
        self._style, _, self._strategy = settings.way.partition(" ")
        self._random = random.Random(f"{settings.seed}/{settings.life}")  # noqa: S311
        self._doom = ""
        self.stopping = threading.Event()
        self.ledger.write("life", way=settings.way)

    # What the test says

    def listen(self) -> None:
        """Obey the test, in a thread."""
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            if command == "die":
                self._doom = argument
            elif command == "stop":
                break
        self.stopping.set()

    def dies_at(self, point: str) -> None:
        """Die here, if the test wants it."""
        if self._doom == point:
            os.kill(os.getpid(), signal.SIGKILL)

    # Consuming

    def run(self) -> None:
        """Consume until told to stop."""
        while not self.stopping.is_set():
            self._consume()
        gc.collect()

    def _consume(self) -> None:
        with self._losing(), contextlib.ExitStack() as stack:
            producer = self._producer()
            stack.callback(producer.close)
            consumer = self._consumer()
            stack.callback(consumer.close)
            listener = Listener(self.ledger)
            way = (Bare if self._style == "bare" else Traced)(self, consumer, producer)
            way.consumer.subscribe([self.settings.topic], listener=listener)
            stack.enter_context(way)
            getattr(way, f"run_{self._style}")()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            self.ledger.write("lost", text=repr(error))

    def _consumer(self) -> Any:
        return KafkaConsumer(
            bootstrap_servers=self.settings.bootstrap,
            client_id=f"life-{self.settings.life}",
            group_id=self.settings.group,
            enable_auto_commit=self.settings.way == "bare auto",
            auto_commit_interval_ms=1000,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=int(self.settings.session * 1000),
            heartbeat_interval_ms=int(self.settings.session * 1000 / 6),
            max_poll_records=AT_ONCE.get(self._style, 10),
            consumer_timeout_ms=SILENT_MS,
        )

    def _producer(self) -> Any:
        # Lingering, so that a commit that does not wait for a copy comes before it.
        return KafkaProducer(
            bootstrap_servers=self.settings.bootstrap, acks="all", linger_ms=LINGER_MS
        )

    # Handling

    def handle(self, records: list[Any], operation: Any) -> None:
        """Do the work, and write it down: the end is on the disk when this returns or raises."""
        self.end(records, operation, self.begin(records, operation))

    def begin(self, records: list[Any], operation: Any) -> str:
        """Write down that a run has begun; return its id."""
        context = trace.get_current_span().get_span_context()
        run = format_span_id(context.span_id)
        traced = format_trace_id(context.trace_id)
        self.has_begun(run, records, traced, [each.attempt for each in operation.deliveries])
        return run

    def has_begun(
        self, run: str, records: list[Any], traced: str, attempts: list[int | None]
    ) -> None:
        """Write down that a run has begun."""
        self.ledger.write(
            "start",
            run=run,
            trace=traced,
            places=[(record.partition, record.offset) for record in records],
            baggage=baggage.get_baggage("number"),
            attempts=attempts,
        )
        self.dies_at("started")

    def end(self, records: list[Any], operation: Any, run: str) -> None:
        """Decide how the run ends, and let it end so."""
        how = self.has_ended(run, records)
        if how == "failed":
            operation.fail("declared", type="declared")
        elif how == "status":
            trace.get_current_span().set_status(StatusCode.ERROR, "as a status")
        elif how == "raised":
            raise FailureError(run)

    def has_ended(self, run: str, records: list[Any]) -> str:
        """Decide how the run ends, and write it down; it is on the disk when this returns."""
        how = self._how(records)
        self.ledger.seal("end", run=run, how=how)
        self.dies_at("ended")
        return how

    def take_time(self) -> None:
        """Be slow every now and then, unless the test is about to end."""
        if self._random.random() < SLOW:
            self.stopping.wait(self._random.uniform(0, SLOW_SECONDS))

    def _how(self, records: list[Any]) -> str:
        if any(int(record.value) % self.settings.poison == 0 for record in records):
            return self._random.choice(["raised", "failed", "status"])
        (how,) = self._random.choices(list(WAYS), list(WAYS.values()))
        return how


class Traced:
    """A consumer with hopspan, in the styles that take part in a chaos."""

    def __init__(self, worker: Worker, consumer: Any, producer: Any) -> None:
        self._worker = worker
        self._pool = ThreadPoolExecutor(THREADS)
        self._pending: set[Future[None]] = set()
        commits = COMMITS[worker.settings.way.partition(" ")[2]]
        self.consumer = hopspan.wrap(consumer, commits=commits)
        to_dead = hopspan.dead_letter(worker.settings.dead, producer=hopspan.wrap(producer))
        self._policy = hopspan.requeue_times(worker.settings.requeues, then=to_dead)

    def __enter__(self) -> Traced:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()

    def run_iterator(self) -> None:
        while not self._worker.stopping.is_set():
            for record in self.consumer:
                with self._processing(record) as operation:
                    self._worker.handle([record], operation)
                if self._worker.stopping.is_set():
                    break

    def run_poll(self) -> None:
        for record in self._polled():
            with self._processing(record) as operation:
                self._worker.handle([record], operation)

    def run_each(self) -> None:
        for batch in self._batches():
            for record in hopspan.each(batch, via=self.consumer):
                with self._processing(record) as operation:
                    self._worker.handle([record], operation)

    def run_batch(self) -> None:
        for batch in self._batches():
            with self._processing(batch) as operation:
                self._worker.handle(batch, operation)

    def run_decorated(self) -> None:
        @hopspan.consumer(via=self.consumer, policy=self._policy)
        def on_record(record: Any) -> None:
            self._worker.handle([record], hopspan.current())

        for record in self._polled():
            on_record(record)

    def run_deferred(self) -> None:
        for record in self._polled():
            self._await_room()
            with self._processing(record) as operation:
                run = self._worker.begin([record], operation)
                self._pending.add(self._pool.submit(self._later, operation.defer(), record, run))

    def _await_room(self) -> None:
        while len(self._pending) >= WAITING:
            self._pending = wait(self._pending, return_when=FIRST_COMPLETED).not_done

    def _later(self, deferred: Any, record: Any, run: str) -> None:
        self._worker.take_time()
        with contextlib.suppress(FailureError), deferred as operation:
            self._worker.end([record], operation, run)

    @contextlib.contextmanager
    def _processing(self, records: Any) -> Iterator[Any]:
        with (
            contextlib.suppress(FailureError),
            hopspan.process(records, via=self.consumer, policy=self._policy) as operation,
        ):
            yield operation

    def _polled(self) -> Iterator[Any]:
        for batch in self._batches():
            yield from batch

    def _batches(self) -> Iterator[list[Any]]:
        while not self._worker.stopping.is_set():
            if polled := self.consumer.poll(timeout_ms=SILENT_MS):
                yield [record for records in polled.values() for record in records]


class Bare:
    """A consumer without hopspan, with what its author would have to write."""

    def __init__(self, worker: Worker, consumer: Any, producer: Any) -> None:
        self._worker, self.consumer, self._producer = worker, consumer, producer
        self._failed: Counter[tuple[int, int]] = Counter()

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run_bare(self) -> None:
        while not self._worker.stopping.is_set():
            for record in self.consumer:
                how = self._handle(record)
                if self._worker.settings.way == "bare record":
                    self._conclude(record, how)
                if self._worker.stopping.is_set():
                    break

    def _handle(self, record: Any) -> str:
        run, attempt = uuid.uuid4().hex, self._failed[record.partition, record.offset] + 1
        self._worker.has_begun(run, [record], trace_of(int(record.value)), [attempt])
        return self._worker.has_ended(run, [record])

    def _conclude(self, record: Any, how: str) -> None:
        partition = TopicPartition(record.topic, record.partition)
        place = record.partition, record.offset
        if how != "returned":
            self._failed[place] += 1
            if self._failed[place] <= self._worker.settings.requeues:
                self.consumer.seek(partition, record.offset)
                return
            self._bury(record, how)
        self.consumer.commit({partition: OffsetAndMetadata(record.offset + 1, "", -1)})
        self._failed.pop(place, None)

    def _bury(self, record: Any, how: str) -> None:
        origin = {
            "hopspan.origin.topic": record.topic,
            "hopspan.origin.partition": record.partition,
            "hopspan.origin.offset": record.offset,
            "hopspan.error.type": ERROR_TYPES[how],
            "hopspan.attempt": self._failed[record.partition, record.offset],
        }
        headers = [*record.headers, *((name, str(text).encode()) for name, text in origin.items())]
        dead = self._worker.settings.dead
        self._producer.send(dead, record.value, key=record.key, headers=headers).get()


def main(arguments: list[str]) -> None:
    """Run one life of the worker."""
    worker = Worker(Settings(**json.loads(arguments[0])))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter(worker)))
    trace.set_tracer_provider(provider)
    logging.getLogger("hopspan").addHandler(Troubles(worker.ledger))
    threading.Thread(target=worker.listen, name="listen", daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1:])
