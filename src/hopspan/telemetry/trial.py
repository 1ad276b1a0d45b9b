"""Whether the installed SDK exports the same points of durations in cells as of recorded ones.

A version of the SDK that nobody has seen may look as known and aggregate in another way. So both
ways are tried, once a process, in a meter provider of its own that nothing else uses.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Histogram, MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from hopspan.conventions import DURATION_BOUNDARIES
from hopspan.telemetry.aggregations import aggregations_of
from hopspan.telemetry.durations import Durations

if TYPE_CHECKING:
    from hopspan.conventions import MetricAttributes
    from hopspan.telemetry.aggregations import Aggregations

_SAMPLED = set_span_in_context(
    NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))), Context()
)
_UNSAMPLED = set_span_in_context(NonRecordingSpan(SpanContext(3, 4, is_remote=False)), Context())
_TRIED: tuple[tuple[MetricAttributes, float, Context], ...] = (
    ((("n", 1),), 0.25, _SAMPLED),
    ((("n", 1),), 0.005, _UNSAMPLED),
    ((("s", "x"), ("n", 2)), 16.0, _SAMPLED),
    ((("n", 1),), 0.1875, _SAMPLED),
)
"""Attributes, seconds (whose sums are exact), and where they are measured."""
_QUICKLY: tuple[MetricAttributes, float] = ((("n", 3),), 0.5)
"""The duration that is added to a cell itself, which shows that cells are used at all."""


def trusted_aggregations_of(instrument: Any) -> Aggregations | None:
    """The aggregations of a histogram; None where merging into them is not as good as recording."""
    found = aggregations_of(instrument)
    return found if found is not None and succeeds() else None


@lru_cache(maxsize=64)
def succeeds() -> bool:
    """Whether merging is as good as recording, in the SDK that is installed. Never raises."""
    try:
        return _exports_the_same()
    except Exception:  # noqa: BLE001 - whatever an SDK that nobody knows may do
        return False


def _exports_the_same() -> bool:
    delta: dict[type, AggregationTemporality] = {Histogram: AggregationTemporality.DELTA}
    readers = [InMemoryMetricReader(), InMemoryMetricReader(delta)]
    exemplars = TraceBasedExemplarFilter()
    provider = MeterProvider(readers, Resource({}), exemplars, shutdown_on_exit=False)
    merged, recorded = (_histogram(provider, name) for name in ("merged", "recorded"))
    durations = Durations(merged, aggregations_of)
    provider.get_meter("trial").create_observable_counter("asking", [durations.on_collect])
    times: list[tuple[int, int]] = []
    for _ in range(2):  # what the first collection leaves behind is part of the second
        began = time_ns()
        for attributes, seconds, context in _TRIED:
            durations.record(seconds, attributes, context)
            recorded.record(seconds, dict(attributes), context)
        if not durations.cell(_QUICKLY[0]).add(_QUICKLY[1], None):
            return False
        recorded.record(_QUICKLY[1], dict(_QUICKLY[0]), _UNSAMPLED)
        times.append((began, time_ns()))
        if not all(_is_same(_points(reader), times) for reader in readers):
            return False
    return True


def _histogram(provider: Any, name: str) -> Any:
    meter = provider.get_meter("trial")
    return meter.create_histogram(name, explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES)


def _points(reader: Any) -> dict[str, list[Any]]:
    """The exported points, by the instrument's name."""
    (resource,) = reader.get_metrics_data().resource_metrics
    metrics = [metric for scope in resource.scope_metrics for metric in scope.metrics]
    return {metric.name: list(metric.data.data_points) for metric in metrics}


def _is_same(points: dict[str, list[Any]], times: list[tuple[int, int]]) -> bool:
    merged, recorded = (
        [_timeless(point, times) for point in points[name]] for name in ("merged", "recorded")
    )
    return len(merged) > 1 and merged == recorded


def _timeless(point: Any, times: list[tuple[int, int]]) -> Any:
    """The same point; all times between two of these are one."""

    def rounded(time: int) -> int:
        return next((number for number, (a, b) in enumerate(times) if a <= time <= b), time)

    return replace(
        point,
        start_time_unix_nano=rounded(point.start_time_unix_nano),
        exemplars=[
            replace(exemplar, time_unix_nano=rounded(exemplar.time_unix_nano))
            for exemplar in point.exemplars
        ],
    )
