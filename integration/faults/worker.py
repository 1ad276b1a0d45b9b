"""The consumer under test, in a process of its own: fails, gets killed, writes all of it down.

Started as `python -m integration.faults.worker SETTINGS`, where SETTINGS is a JSON object with the
fields of `Settings`. Obeys lines on its standard input: `stop` (also its end, so that no worker
outlives its test) or `die POINT`, upon which it kills itself with SIGKILL in the next handler run
that comes to that point:

- `started`: the run is written down, and has not ended;
- `ended`: its end is written down, and nothing is settled;
- `exporting`: its message is settled, and its span is not written down.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pika
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

import hopspan
from integration.faults.journal import Journal

THREADS = 4
WAYS = {"returned": 70, "raised": 20, "failed": 5, "status": 5}
"""How a run ends, and how often: the last three are failures."""


class Settings(NamedTuple):
    """What a worker is told."""

    url: str
    queue: str
    journal: str
    life: int
    seed: str
    style: str
    """`callback`; `deferred` to a thread pool; or `mixed`: half deferred, and some acked by the
    handler itself, with multiple=True."""
    requeues: int
    prefetch: int


class FailureError(Exception):
    """What a handler raises."""


class LostError(FailureError):
    """The handler could not ack by itself: its connection was gone."""


class Exporter(SpanExporter):
    """Writes a line for each process span, before the span's end returns."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if span.kind is SpanKind.CONSUMER:
                self._worker.dies_at("exporting")
                self._worker.is_over(_described(span))
        return SpanExportResult.SUCCESS


def _described(span: ReadableSpan) -> dict[str, Any]:
    attributes = span.attributes or {}
    return {
        "run": format_span_id(span.context.span_id),
        "trace": format_trace_id(span.context.trace_id),
        "parent": format_span_id(span.parent.span_id) if span.parent else None,
        "message": attributes.get("messaging.message.id"),
        "settlement": attributes.get("hopspan.settlement"),
        "error": span.status.status_code is StatusCode.ERROR,
        "type": attributes.get("error.type"),
    }


class Troubles(logging.Handler):
    """Writes down what hopspan logs only when something is wrong with hopspan."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith(("handler failed", "could not ")):
            self._journal.write("trouble", text=self.format(record))


class Worker:
    """Consumes until it is told to stop; comes back after every lost connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.journal = Journal(Path(settings.journal))
        self._random = random.Random(f"{settings.seed}/{settings.life}")  # noqa: S311
        self._doom = ""
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS)
        self._open: dict[str, str] = {}
        """The runs whose span has not ended, and their connections."""
        self._connections = 0
        self._name = ""
        self._connection: Any = None
        self._channel: Any = None
        once = settings.requeues == 1
        policy = hopspan.requeue_once if once else hopspan.requeue_times(settings.requeues)
        self._handler = hopspan.consumer(policy=policy)(self._on_message)

    # What the test says

    def listen(self) -> None:
        """Obey the test, in a thread."""
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            if command == "die":
                self._doom = argument
            elif command == "stop":
                break
        self._stopping.set()
        with contextlib.suppress(AMQPError, AttributeError):  # between two connections
            self._connection.add_callback_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._channel.is_open:
            self._channel.stop_consuming()

    def dies_at(self, point: str) -> None:
        """Die here, if the test wants it."""
        if self._doom == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def is_over(self, span: dict[str, Any]) -> None:
        """A process span has ended."""
        self.journal.write("span", **span)
        self._open.pop(span["run"], None)

    # Consuming

    def run(self) -> None:
        """Consume until told to stop."""
        while not self._stopping.is_set():
            try:
                self._consume()
            except (ChannelClosedByBroker, ConnectionClosedByBroker) as error:
                self.journal.write("trouble", text=repr(error))
                break
            except AMQPError as error:
                self.journal.write("lost", connection=self._name, text=repr(error))
            except FailureError as error:  # a failure that could not be settled is raised
                if self._connection.is_open:
                    self.journal.write(
                        "trouble", text=f"unsettled on an open connection: {error!r}"
                    )
                    break
                self.journal.write("lost", connection=self._name, text=repr(error))
            self._connection = self._channel = None
        self._pool.shutdown()
        gc.collect()

    def _consume(self) -> None:
        self._connections += 1
        self._name = f"{self.settings.life}.{self._connections}"
        parameters = pika.URLParameters(self.settings.url)
        parameters.client_properties = {"connection_name": self._name}
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=self.settings.prefetch)
        self._channel.basic_consume(self.settings.queue, self._handler)
        self.journal.write("connected", connection=self._name)
        if self._stopping.is_set():
            self._cancel()
        self._channel.start_consuming()
        while self._name in self._open.values():  # deferred ones
            self._connection.process_data_events(time_limit=0.05)
        self._connection.close()

    # Handling

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        operation = hopspan.current()
        context = operation.span.get_span_context()
        run = format_span_id(context.span_id)
        self._open[run] = self._name
        self.journal.write(
            "start",
            run=run,
            message=int(body),
            connection=self._name,
            tag=method.delivery_tag,
            trace=format_trace_id(context.trace_id),
            baggage=baggage.get_baggage("number"),
            attempt=operation.delivery.attempt,
            redelivered=method.redelivered,
        )
        self.dies_at("started")
        (how,) = self._random.choices(list(WAYS), list(WAYS.values()))
        style, chance = self.settings.style, self._random.random()
        if style == "deferred" or (style == "mixed" and chance < 0.5):
            self._pool.submit(self._later, operation.defer(), run, how)
            return
        acks = style == "mixed" and chance > 0.8
        if acks:
            try:
                channel.basic_ack(method.delivery_tag, multiple=True)
            except AMQPError as error:
                self.journal.write("end", run=run, how="disconnected")
                raise LostError(type(error).__name__) from error
        self._end(operation, run, how)

    def _later(self, deferred: Any, run: str, how: str) -> None:
        with contextlib.suppress(FailureError), deferred as operation:
            self._end(operation, run, how)

    def _end(self, operation: Any, run: str, how: str) -> None:
        if how == "failed":
            operation.fail("declared", type="declared")
        elif how == "status":
            trace.get_current_span().set_status(StatusCode.ERROR, "as a status")
        self.journal.write("end", run=run, how=how)
        self.dies_at("ended")
        if how == "raised":
            raise FailureError(run)


def main(arguments: list[str]) -> None:
    """Run one life of the worker."""
    worker = Worker(Settings(**json.loads(arguments[0])))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter(worker)))
    trace.set_tracer_provider(provider)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logging.getLogger("hopspan").addHandler(Troubles(worker.journal))
    threading.Thread(target=worker.listen, name="listen", daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1:])
