"""The aio-pika consumer under test, in a process of its own: one robust connection, many handlers.

Started as `python -m integration.faults.aio_worker SETTINGS`, where SETTINGS is a JSON object with
the fields of `Settings`. Obeys lines on its standard input: `stop` (also its end, so that no worker
outlives its test), or `cancel N`, upon which it cancels so many handlers that are at work.

It writes what `integration.faults.worker` writes. Connections are counted by their first delivery,
and each entry `connected` says of that one how many `layers` of hopspan the handler is called
through. An entry `cancel` is a handler that was cancelled while its channel was open.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

import hopspan
from integration.faults.journal import Journal
from integration.faults.worker import WAYS, FailureError

MEAN_SECONDS = 0.02
"""How long a handler is at work, on average."""
LOUD = ("opentelemetry", "hopspan")
"""Whose warnings mean that something is wrong. The client's tell of connections that are lost, and
asyncio's of futures and tasks that nobody has asked how they ended, which are the client's too."""
EXPECTED = ("handler failed", "could not ")


class Settings(NamedTuple):
    """What a worker is told."""

    url: str
    queue: str
    journal: str
    seed: str
    face: str
    """`wrapped`, with a decorated handler; or `instrumented`, with the policy given there."""
    prefetch: int


class Exporter(SpanExporter):
    """Writes a line for each process span."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if span.kind is SpanKind.CONSUMER:
                self._journal.write("span", **_described(span))
        return SpanExportResult.SUCCESS


def _described(span: ReadableSpan) -> dict[str, Any]:
    attributes = span.attributes or {}
    return {
        "run": format_span_id(span.context.span_id),
        "trace": format_trace_id(span.context.trace_id),
        "parent": format_span_id(span.parent.span_id) if span.parent else None,
        "message": attributes.get("messaging.message.id"),
        "settlement": attributes.get("hopspan.settlement"),
        "cancelled": attributes.get("hopspan.cancelled", False),
        "error": span.status.status_code is StatusCode.ERROR,
        "type": attributes.get("error.type"),
    }


class Troubles(logging.Handler):
    """Writes down what is logged, by anybody, only when something is wrong with hopspan."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        loud = record.levelno >= logging.WARNING and record.name.startswith(LOUD)
        if "detach" in text or (loud and not text.startswith(EXPECTED)):
            self._journal.write("trouble", text=self.format(record))


def layers() -> int:
    """How many frames of hopspan the caller was called through."""
    found, frame = 0, sys._getframe(1)
    while frame is not None:
        found += frame.f_globals["__name__"].partition(".")[0] == "hopspan"
        frame = frame.f_back  # type: ignore[assignment]
    return found


class Worker:
    """Consumes on one robust connection until it is told to stop."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.settings = settings
        self._journal = journal
        self._random = random.Random(settings.seed)  # noqa: S311
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._connections = 0
        self._working: dict[str, asyncio.Task[Any]] = {}
        """The handlers that are at work, by run."""

    # What the test says

    def listen(self) -> None:
        """Obey the test, in a thread."""
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            if command == "cancel":
                self._loop.call_soon_threadsafe(self._cancel, int(argument))
            elif command == "stop":
                break
        self._loop.call_soon_threadsafe(self._stopping.set)

    def _cancel(self, handlers: int) -> None:
        if len(self._working) < handlers:
            self._loop.call_later(MEAN_SECONDS, self._cancel, handlers)
            return
        for run in self._random.sample(list(self._working), handlers):
            self._journal.write("cancel", run=run)
            self._working.pop(run).cancel()

    # Consuming

    async def run(self) -> None:
        """Consume until told to stop."""
        settings, handler = self.settings, self._on_message
        if settings.face == "instrumented":
            hopspan.instrument("aio-pika", policy=hopspan.reject_on_error)
        # What is current here is not to be anybody's parent, before or after any reconnect.
        with trace.get_tracer("worker").start_as_current_span("opening"):
            connection = await aio_pika.connect_robust(settings.url, reconnect_interval=0.05)
            if settings.face == "wrapped":
                connection = hopspan.wrap(connection)
                handler = hopspan.consumer(policy=hopspan.reject_on_error)(handler)
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=settings.prefetch)
            queue = await channel.declare_queue(settings.queue, passive=True)
            tag = await queue.consume(handler)
        await self._stopping.wait()
        await queue.cancel(tag)
        await connection.close()

    def _name(self, message: Any) -> str:
        # Private to aio-pika; the public property raises where the channel is closed.
        channel = message._IncomingMessage__channel
        if channel not in self._names:
            self._connections += 1
            self._names[channel] = f"1.{self._connections}"
            self._journal.write("connected", connection=self._names[channel], layers=layers())
        return self._names[channel]

    # Handling

    async def _on_message(self, message: Any) -> None:
        operation = hopspan.current()
        context = operation.span.get_span_context()
        run = format_span_id(context.span_id)
        self._journal.write(
            "start",
            run=run,
            message=int(message.body),
            connection=self._name(message),
            tag=message.delivery_tag,
            trace=format_trace_id(context.trace_id),
            baggage=baggage.get_baggage("number"),
            attempt=operation.delivery.attempt,
            redelivered=message.redelivered,
        )
        how = "cancelled"
        self._working[run] = asyncio.current_task()  # type: ignore[assignment]
        try:
            await asyncio.sleep(self._random.expovariate(1 / MEAN_SECONDS))
            (how,) = self._random.choices(list(WAYS), list(WAYS.values()))
        finally:
            self._working.pop(run, None)
            self._journal.write("end", run=run, how=how)
        if how == "failed":
            operation.fail("declared", type="declared")
        elif how == "status":
            trace.get_current_span().set_status(StatusCode.ERROR, "as a status")
        elif how == "raised":
            raise FailureError(run)


async def main(arguments: list[str]) -> None:
    """Run the worker."""
    settings = Settings(**json.loads(arguments[0]))
    journal = Journal(Path(settings.journal))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter(journal)))
    trace.set_tracer_provider(provider)
    logging.getLogger().addHandler(Troubles(journal))
    worker = Worker(settings, journal)
    threading.Thread(target=worker.listen, name="listen", daemon=True).start()
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
