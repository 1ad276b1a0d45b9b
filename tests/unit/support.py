"""Unit tests share this: telemetry of their own, values to compare, a client whose messages say anything.

Nothing here is global: a test gives `telemetry.settings` to the decorator or block that it tries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind, Status

import hopspan
from hopspan import conventions as names
from hopspan.config import Config
from hopspan.conventions import Route, plan
from hopspan.delivery import Adapter, Client, Delivery
from hopspan.model import Endpoint, Settlement
from hopspan.telemetry import Instrumenter

DEADLINE = 10.0
"""Seconds after which something that should have happened never will."""


class Seen(NamedTuple):
    """All that a test may say about a finished span, as a value."""

    name: str
    kind: SpanKind = SpanKind.CONSUMER
    attributes: Mapping[str, Any] = {}
    parent: int | None = None
    links: Sequence[int] = ()
    status: tuple[str, str | None] = ("UNSET", None)
    events: Sequence[str] = ()


def seen(span: ReadableSpan) -> Seen:
    """A finished span as a value."""
    return Seen(
        span.name,
        span.kind,
        dict(span.attributes or {}),
        span.parent.span_id if span.parent else None,
        tuple(link.context.span_id for link in span.links),
        named(span.status),
        tuple(event.name for event in span.events),
    )


class _Keeping(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class _KeepingLogs(LogRecordProcessor):
    def __init__(self) -> None:
        self.records: list[Any] = []

    def on_emit(self, log_record: Any) -> None:
        self.records.append(log_record.log_record)

    def shutdown(self) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class Telemetry:
    """Providers that keep what they are given."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        resource = Resource({})
        self._kept, self._logs, self._reader = _Keeping(), _KeepingLogs(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(self._kept)
        self.meter_provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)
        self.logger_provider = LoggerProvider(resource, shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(self._logs)
        self.tracer = self.tracer_provider.get_tracer("test")

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords for whatever takes settings."""
        return {
            "tracer_provider": self.tracer_provider,
            "meter_provider": self.meter_provider,
            "logger_provider": self.logger_provider,
        }

    def instrumenter(self, **settings: Any) -> Instrumenter:
        return Instrumenter(self.config(**settings))

    def config(self, **settings: Any) -> Config:
        return Config(**{**self.settings, **settings})

    @property
    def spans(self) -> list[ReadableSpan]:
        """Finished spans, in the order in which they ended."""
        return list(self._kept.spans)

    @property
    def seen(self) -> list[Seen]:
        """Finished spans as values."""
        return [seen(span) for span in self.spans]

    @property
    def only(self) -> Seen:
        """The one finished span."""
        (span,) = self.spans
        return seen(span)

    @property
    def logs(self) -> list[Any]:
        """Log records that were emitted."""
        return list(self._logs.records)

    def metric(self, name: str) -> Any:
        """A metric as exported just now; None when it is not there."""
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        return metric
        return None

    def points(self, name: str) -> list[tuple[dict[str, Any], int]]:
        """Attributes and value of each point: the sum of a counter, the count of a histogram."""
        metric = self.metric(name)
        points = metric.data.data_points if metric else ()
        return [
            (dict(point.attributes), getattr(point, "count", None) or getattr(point, "value", 0))
            for point in points
        ]


class Given(Delivery):
    """A message that says what a test wants it to say, and its own delivery."""

    __slots__ = ("fields", "settlements")
    client = Client("given", system="memory")

    def __init__(self, headers: Any = None, **fields: Any) -> None:
        self.fields = {"headers": headers, "endpoint": Endpoint("memory", "orders"), **fields}
        self.settlements: list[Settlement] = []

    @classmethod
    def of(cls, message: Any, via: Any) -> Delivery | None:
        return message if isinstance(message, cls) else None

    def read(self) -> tuple[Route, Any]:
        return Route(plan(names.PROCESS, self.fields["endpoint"])), self.fields["headers"]

    def describe(self, attributes: dict[str, Any]) -> None:
        attributes.update(self.fields.get("attributes", {}))

    @property
    def key(self) -> tuple[str, str] | None:
        found: tuple[str, str] | None = self.fields.get("key")
        return found

    @property
    def native(self) -> Any:
        return self.fields.get("native", self)

    @property
    def counted(self) -> bool:
        return bool(self.fields.get("counted"))

    @property
    def attempt(self) -> int | None:
        attempt: int | None = self.fields.get("attempt", 1)
        return attempt

    @property
    def redelivered(self) -> bool:
        return bool(self.fields.get("redelivered"))

    def settle(self, settlement: Settlement) -> None:
        self.settlements.append(settlement)


GIVEN = Adapter(Given)
"""The adapter of that client."""


def delivery(headers: Any = None, **fields: Any) -> Given:
    """A message of a queue called `orders`."""
    return Given(headers, **fields)


def handle(
    messages: Sequence[Given],
    handler: Callable[[Any], Any] = lambda _: None,
    *,
    pushed: bool = False,
    **settings: Any,
) -> Any:
    """Handle a message, or several as one: in a decorated handler if pushed, else in a block."""
    message: Any = messages[0] if len(messages) == 1 else list(messages)
    if pushed:
        return hopspan.consumer(adapter=GIVEN, **settings)(lambda _: handler(hopspan.current()))(
            message
        )
    with hopspan.process(message, adapter=GIVEN, **settings) as delivered:
        return handler(delivered)


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in another thread; raises what it raises."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            results.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    assert results, "the thread did not finish in time"
    result, error = results[0]
    if error is not None:
        raise error
    return result


def named(status: Status) -> tuple[str, str | None]:
    """A status as a value."""
    return status.status_code.name, status.description
