"""The SDK's providers, from a preset, the environment and what was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider

from hopspan.sdk.exporting import CountedBatches, LogRecords, Metrics, Spans
from hopspan.sdk.otlp import factories
from hopspan.sdk.presets import Preset, sampler_of, sizes_of
from hopspan.sdk.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["logger_provider", "meter_provider", "tracer_provider"]


def tracer_provider(
    preset: Preset, resource: Resource, sampler: Sampler | None, exporter: SpanExporter | None
) -> tuple[TracerProvider, list[Tally]]:
    """The tracer provider, and a tally of each of its exporters."""
    # Made first: an exporter that cannot be made leaves no thread behind.
    sizes = sizes_of(preset, "OTEL_BSP")
    exporters = [Spans(make, Tally(sizes.queue)) for make in _makers("traces", preset, exporter)]
    provider = TracerProvider(
        sampler=sampler or sampler_of(preset), resource=resource, shutdown_on_exit=False
    )
    for each in exporters:
        provider.add_span_processor(CountedBatches(each, sizes))
    return provider, [each.tally for each in exporters]


def meter_provider(
    preset: Preset,
    resource: Resource,
    exporter: MetricExporter | None,
    readers: Sequence[MetricReader] | None,
) -> MeterProvider | None:
    """The meter provider; None where nothing reads it."""
    every = (
        [_reader(make) for make in _makers("metrics", preset, exporter)]
        if readers is None
        else readers
    )
    if not every:
        return None
    return MeterProvider(metric_readers=every, resource=resource, shutdown_on_exit=False)


def _reader(make: Callable[[], Any]) -> MetricReader:
    """What is named as an exporter may be a reader, which is asked, and needs no other."""
    first = make()
    if isinstance(first, MetricReader):
        return first
    return PeriodicExportingMetricReader(Metrics(make, first))


def logger_provider(
    preset: Preset, resource: Resource, exporter: LogRecordExporter | None
) -> LoggerProvider | None:
    """The logger provider; None where nothing is exported."""
    exporters = [LogRecords(make) for make in _makers("logs", preset, exporter)]
    if not exporters:
        return None
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    sizes = sizes_of(preset, "OTEL_BLRP")
    for each in exporters:
        provider.add_log_record_processor(
            BatchLogRecordProcessor(
                cast("Any", each),
                max_queue_size=sizes.queue,
                schedule_delay_millis=sizes.delay_seconds * 1000,
                max_export_batch_size=sizes.batch,
            )
        )
    return provider


def _makers(signal: str, preset: Preset, given: Any) -> Iterable[Callable[[], Any]]:
    return factories(signal, preset) if given is None else [lambda: given]
