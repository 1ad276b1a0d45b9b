"""The ways in which an application may have set up OpenTelemetry; none of them is made global."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

SAMPLED, UNSAMPLED, NO_SDK = "sampled", "unsampled", "no SDK"
MODES = (SAMPLED, UNSAMPLED, NO_SDK)


class _Exporter(SpanExporter):
    """Discards spans, unless somebody is looking; as they are, or encoded as OTLP has it."""

    def __init__(self, *, encodes: bool) -> None:
        self.kept: list[ReadableSpan] | None = None
        self.encoded = 0
        """Bytes."""
        self._encodes = encodes

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._encodes:
            self.encoded += len(encode_spans(spans).SerializeToString())
        if self.kept is not None:
            self.kept.extend(spans)
        return SpanExportResult.SUCCESS


class Telemetry:
    """The providers of one mode; a row that is to be compared in it is given them explicitly."""

    def __init__(self, mode: str, *, encodes: bool = False) -> None:
        self.mode = mode
        self.tracer_provider: TracerProvider | None = None
        self.meter_provider: MeterProvider | None = None
        self._sizes: dict[tuple[str, Any], float] = {}
        if mode == NO_SDK:
            return
        resource = Resource({})
        sampler = ParentBased(ALWAYS_ON if mode == SAMPLED else ALWAYS_OFF)
        self._exporter, self._reader = _Exporter(encodes=encodes), InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)

    @property
    def records(self) -> bool:
        """Whether spans are recorded."""
        return self.mode == SAMPLED

    @property
    def providers(self) -> dict[str, Any]:
        """As hopspan's settings; none where there is no SDK."""
        if self.tracer_provider is None:
            return {}
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    def tracer(self, name: str = "application") -> trace.Tracer:
        """What hand-written code starts its spans with."""
        return trace.get_tracer(name, tracer_provider=self.tracer_provider)

    def meter(self, name: str = "application") -> metrics.Meter:
        """What hand-written code makes its instruments with."""
        return metrics.get_meter(name, meter_provider=self.meter_provider)

    def flush(self) -> None:
        """Hand all spans to the exporter."""
        if self.tracer_provider is not None:
            self.tracer_provider.force_flush()

    def watch(self) -> None:
        """Keep spans from now on."""
        self.flush()
        if self.tracer_provider is not None:
            self._exporter.kept = []

    def seen(self) -> list[ReadableSpan]:
        """The spans since then, in the order in which they began; they are discarded again."""
        self.flush()
        if self.tracer_provider is None:
            return []
        kept, self._exporter.kept = self._exporter.kept, None
        return sorted(kept or [], key=lambda span: span.start_time or 0)

    @property
    def encoded(self) -> int:
        """Bytes that were made of spans so far."""
        return self._exporter.encoded

    def points(self) -> dict[str, list[dict[str, Any]]]:
        """The attributes of all that was measured since this was last asked, by metric."""
        data = self._reader.get_metrics_data() if self.tracer_provider is not None else None
        found: dict[str, list[dict[str, Any]]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        if self._has_grown(metric.name, point):
                            found.setdefault(metric.name, []).append(dict(point.attributes or {}))
        return found

    def _has_grown(self, name: str, point: Any) -> bool:
        key = name, tuple(sorted(point.attributes.items()))
        before = self._sizes.get(key, 0)
        self._sizes[key] = getattr(point, "count", None) or point.value
        return bool(self._sizes[key] > before)

    def close(self) -> None:
        """Stop its threads."""
        if self.tracer_provider is not None and self.meter_provider is not None:
            self.tracer_provider.shutdown()
            self.meter_provider.shutdown()
