"""What was recorded, as values that can be compared whole.

Nothing here is global: hopspan is given the providers as settings. Without an SDK it is given none,
and the global ones of the API, which do nothing, are what it finds.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry import _logs as api_logs
from opentelemetry import baggage, context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from typing_extensions import Self

_RESOURCE = Resource({})
"""Looking for the real one takes longer than a scenario."""
SETTLED_FAILURE = "handler failed; its message "
"""How hopspan begins the line about a failure that stays inside: a matter of course."""


class Span(NamedTuple):
    """A finished span. Traces are numbered as they began; parents and links are names of spans."""

    name: str
    kind: str = "internal"
    parent: str | None = None
    links: tuple[str, ...] = ()
    trace: int = 0
    status: str = "unset"
    description: str | None = None
    error: str | None = None
    exceptions: tuple[str, ...] = ()
    settlement: str | None = None
    reason: str | None = None
    cancelled: bool | None = None

    def failed(self, error: BaseException) -> Span:
        """This span, failed by an exception of a built-in class."""
        kind = type(error).__name__
        return self._replace(
            status="error", description=str(error) or None, error=kind, exceptions=(kind,)
        )


class Measured(NamedTuple):
    """A point of a metric: of which operation, how it failed, how often it was counted."""

    metric: str
    operation: str
    error: str | None
    count: int


class Instrument(NamedTuple):
    """An instrument as it was exported: its data's kind, its unit, the bounds of its buckets."""

    data: str
    unit: str
    boundaries: tuple[float, ...] = ()


class Telemetry:
    """The telemetry of one scenario: `sampled`, `unsampled` or `no SDK`."""

    def __init__(self, sampling: str) -> None:
        self.sampling = sampling
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.log_records = LogRecords()
        self.is_aside: Callable[[str, Mapping[str, Any]], bool] = lambda name, attributes: False
        """What of a client's own is beside the point of most scenarios: by name of the span (none
        for a point of a metric) and by attributes."""
        self.providers: dict[str, Any] = {}
        if sampling == "no SDK":
            assert type(trace.get_tracer_provider()) is trace.ProxyTracerProvider, (
                "an SDK is set up"
            )
            return
        sampler = ALWAYS_ON if sampling == "sampled" else ALWAYS_OFF
        tracers = TracerProvider(sampler, _RESOURCE, shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider([self._reader], _RESOURCE, shutdown_on_exit=False)
        self.providers = {
            "tracer_provider": tracers,
            "meter_provider": meters,
            "logger_provider": self.log_records,
        }

    @property
    def records(self) -> bool:
        """Whether spans are recorded."""
        return self.sampling == "sampled"

    @property
    def tracer(self) -> trace.Tracer:
        """The application's own tracer."""
        return trace.get_tracer(
            "application", tracer_provider=self.providers.get("tracer_provider")
        )

    @property
    def meter(self) -> metrics.Meter:
        """The application's own meter."""
        return metrics.get_meter("application", meter_provider=self.providers.get("meter_provider"))

    def close(self) -> None:
        """Leave no provider behind."""
        for name in ("tracer_provider", "meter_provider"):
            if name in self.providers:
                self.providers[name].shutdown()

    # What was recorded

    def recorded(self) -> list[ReadableSpan]:
        """Really all spans as the SDK has them, in the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def finished(self, also: Collection[str] = ()) -> list[ReadableSpan]:
        """The spans that are not beside the point, and those of these names."""
        return [
            span
            for span in self.recorded()
            if span.name in also or not self.is_aside(span.name, span.attributes or {})
        ]

    def spans(self, also: Collection[str] = ()) -> list[Span]:
        """The finished spans as values, in the order in which they began."""
        finished = self.finished(also)
        names = {span.context.span_id: span.name for span in self.recorded() if span.context}
        traces: dict[int, int] = {}
        for span in finished:
            traces.setdefault(_trace_id(span), len(traces))
        return [_value(span, names, traces) for span in finished]

    def named(self, name: str) -> list[ReadableSpan]:
        """The finished spans of this name."""
        return [span for span in self.recorded() if span.name == name]

    def attributes(self, name: str) -> dict[str, Any]:
        """All attributes of the only span of this name."""
        (span,) = self.named(name)
        return dict(span.attributes or {})

    def measured(self) -> set[Measured]:
        """The points of hopspan's metrics that are not beside the point."""
        return {
            Measured(
                metric,
                str(attributes["messaging.operation.name"]),
                attributes.get("error.type"),
                getattr(point, "count", getattr(point, "value", 0)),
            )
            for metric, attributes, point in self.points()
        }

    def points(self) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
        """The points of hopspan's metrics that are not beside the point."""
        for metric, attributes, point in self.all_points():
            if not self.is_aside("", attributes):
                yield metric, attributes, point

    def all_points(self) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
        """Every point of hopspan's metrics as the SDK has it: metric, attributes, point."""
        for metric in self.exported():
            for point in metric.data.data_points:
                yield metric.name, point.attributes or {}, point

    def instruments(self) -> dict[str, Instrument]:
        """Hopspan's instruments that have recorded something."""
        return {
            metric.name: Instrument(
                type(metric.data).__name__,
                metric.unit,
                next(
                    (
                        tuple(getattr(point, "explicit_bounds", ()))
                        for point in metric.data.data_points
                    ),
                    (),
                ),
            )
            for metric in self.exported()
        }

    def exported(self) -> Iterator[Any]:
        """Hopspan's metrics as the SDK has them, where something was recorded."""
        data = self._reader.get_metrics_data() if self.providers else None
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                if scope.scope.name == "hopspan":
                    yield from (metric for metric in scope.metrics if metric.data.data_points)


def _trace_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def _value(span: ReadableSpan, names: Mapping[int, str], traces: Mapping[int, int]) -> Span:
    attributes = span.attributes or {}
    return Span(
        span.name,
        span.kind.name.lower(),
        names.get(span.parent.span_id, "elsewhere") if span.parent else None,
        tuple(names.get(link.context.span_id, "elsewhere") for link in span.links),
        traces[_trace_id(span)],
        span.status.status_code.name.lower(),
        span.status.description,
        attributes.get("error.type"),  # type: ignore[arg-type]
        tuple(str((event.attributes or {}).get("exception.type")) for event in span.events),
        attributes.get("hopspan.settlement"),  # type: ignore[arg-type]
        attributes.get("hopspan.settlement.reason"),  # type: ignore[arg-type]
        attributes.get("hopspan.cancelled"),  # type: ignore[arg-type]
    )


class LogRecords(api_logs.LoggerProvider):
    """A logger provider that keeps what is emitted; the SDK's in-memory one has two names."""

    def __init__(self) -> None:
        self.emitted: list[api_logs.LogRecord] = []

    def get_logger(self, *_args: Any, **_kwargs: Any) -> api_logs.Logger:
        return _KeepingLogger(self.emitted)


class _KeepingLogger(api_logs.Logger):
    def __init__(self, emitted: list[api_logs.LogRecord]) -> None:
        super().__init__("hopspan")
        self._emitted = emitted

    def enabled(self, **_about: Any) -> bool:
        return True

    def emit(self, record: api_logs.LogRecord) -> None:  # type: ignore[override]
        self._emitted.append(record)


class Lines(logging.Handler):
    """What hopspan, OpenTelemetry and asyncio log (from WARNING on) while it is on."""

    LOGGERS = ("hopspan", "opentelemetry", "asyncio", "concurrent.futures")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        kept = copy.copy(record)
        kept.exc_info = None  # a traceback would keep alive what the scenario has let go
        self.records.append(kept)

    def __enter__(self) -> Self:
        for name in self.LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeHandler(self)

    def take(self) -> list[str]:
        """What was logged since the last time, but for failures that were settled."""
        lines = [record.getMessage() for record in self.records]
        self.records = []
        return [line for line in lines if not line.startswith(SETTLED_FAILURE)]


@contextmanager
def baggage_of(**entries: str) -> Iterator[None]:
    """These entries are in the current baggage."""
    entered = context.get_current()
    for key, value in entries.items():
        entered = baggage.set_baggage(key, value, entered)
    token = context.attach(entered)
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def silence(*keys: str) -> Iterator[None]:
    """What `suppress_instrumentation` of the contrib packages does."""
    suppressed = context.get_current()
    for key in keys or ("suppress_instrumentation", _suppress_key()):
        suppressed = context.set_value(key, value=True, context=suppressed)
    token = context.attach(suppressed)
    try:
        yield
    finally:
        context.detach(token)


def _suppress_key() -> str:
    return str(getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"))


def types_of(sequence: Sequence[object]) -> list[str]:
    """Class names, for comparing exceptions."""
    return [type(each).__name__ for each in sequence]
