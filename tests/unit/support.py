"""What unit tests share: telemetry of their own, values to compare, adapters with a part replaced.

Nothing here is global: a test gives `telemetry.settings` to the face that it tries.
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

from hopspan.config import Config
from hopspan.model import Delivery, Endpoint, MessageInfo
from hopspan.telemetry import Instrumenter
from hopspan.testing import memory

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
        """Keywords for any face."""
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


class Adapting:
    """The in-memory adapter with some of its parts replaced."""

    def __init__(self, **replaced: Any) -> None:
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(memory, name)


def delivery(headers: Any = None, **fields: Any) -> Delivery:
    """A delivery of a queue called `orders`."""
    given = {"endpoint": Endpoint("memory", "orders"), "message": MessageInfo(), "native": None}
    return Delivery(**{**given, "headers": headers, **fields})


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
