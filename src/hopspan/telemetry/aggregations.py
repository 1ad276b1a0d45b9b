"""The aggregations that OpenTelemetry's SDK keeps for a histogram of ours, and how to add to them.

Nearly all that is read here is private to the SDK, whose versions differ in it. `aggregations_of`
finds nothing where a class is not the known one, or where a view or a reader aggregates in another
way than into our buckets; the histogram records durations then. The trial beside this module tells
whether the rest is as it seems. Imported only when an SDK is there: the import fails where one has
other names.
"""
# ruff: noqa: SLF001 - this is the place for it

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics._internal import _view_instrument_match
from opentelemetry.sdk.metrics._internal.aggregation import (
    _DropAggregation,
    _ExplicitBucketHistogramAggregation,
)
from opentelemetry.sdk.metrics._internal.instrument import _Histogram
from opentelemetry.sdk.metrics._internal.measurement import Measurement
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer
from opentelemetry.sdk.metrics._internal.metric_reader_storage import MetricReaderStorage
from opentelemetry.sdk.metrics._internal.view import _default_reservoir_factory
from opentelemetry.sdk.metrics.view import DefaultAggregation, ExplicitBucketHistogramAggregation
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from hopspan.conventions import DURATION_BOUNDARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import SpanContext

    from hopspan.telemetry.measured import Measured

_KEEPS_EXEMPLARS = {TraceBasedExemplarFilter: True, AlwaysOffExemplarFilter: False}
_hash_attributes = getattr(_view_instrument_match, "_hash_attributes", None)  # new in 1.45


class Aggregations:
    """The aggregations of one histogram, in every view and for every reader."""

    __slots__ = ("_instrument", "_keeps_exemplars", "_matches", "consumer", "readers")

    def __init__(self, instrument: Any) -> None:
        self._instrument = instrument
        self.consumer: Any = instrument._measurement_consumer
        """Where instruments hand their measurements to, and readers collect from."""
        self.readers: Mapping[Any, Any] = self.consumer._reader_storages
        """The readers. The SDK puts another mapping there when they change."""
        self._keeps_exemplars = _KEEPS_EXEMPLARS[type(self.consumer._sdk_config.exemplar_filter)]
        self._matches: list[Any] = [
            match
            for storage in self.readers.values()
            for match in storage._get_or_init_view_instrument_match(instrument)
            if type(match._aggregation) is not _DropAggregation
        ]

    def are_known(self) -> bool:
        """Whether each object that is read is of a known class, and aggregates as our cells do."""
        return (
            type(self._instrument) is _Histogram
            and getattr(self._instrument, "_is_enabled", lambda: True)()
            and type(self.consumer) is SynchronousMeasurementConsumer
            and all(type(storage) is MetricReaderStorage for storage in self.readers.values())
            and all(_is_as_ours(match) for match in self._matches)
        )

    def ask(self, callback: Callable[..., Any]) -> bool:
        """Whether the SDK calls this callback of an observable instrument before it collects."""
        observable = list(self.consumer._async_instruments)
        return any(callback in instrument._callbacks for instrument in observable)

    def merge(self, measured: Measured) -> None:
        """Add what was measured, as if it had been recorded at the time. Thread-safe."""
        attributes = dict(measured.attributes)
        cleaned = self._measurement(0.0, measured.since, None, attributes).attributes
        exemplars = [
            self._measurement(seconds, at, span_context, attributes)
            for seconds, at, span_context in (measured.exemplars if self._keeps_exemplars else ())
        ]
        for match in self._matches:
            with match._lock:
                aggregation = _aggregation_in(match, dict(cleaned), measured.since)
                _add(aggregation, measured)
                for exemplar in exemplars:
                    aggregation._sample_exemplar(exemplar, should_sample_exemplar=True)

    def _measurement(
        self, seconds: float, at: int, span_context: SpanContext | None, attributes: dict[str, Any]
    ) -> Any:
        """A measurement of the SDK's own, which cleans attributes as each version finds right."""
        context = Context()
        if span_context is not None:
            context = set_span_in_context(NonRecordingSpan(span_context), context)
        return Measurement(seconds, at, self._instrument, context, attributes)


def aggregations_of(instrument: Any) -> Aggregations | None:
    """The aggregations of a histogram; None where it is not known how to add to them."""
    try:
        found = Aggregations(instrument)
        return found if found.are_known() else None
    except Exception:  # noqa: BLE001 - an SDK that is laid out in another way
        return None


def _is_as_ours(match: Any) -> bool:
    """Whether a view keeps all attributes, our buckets, the extremes, and exemplars of buckets."""
    aggregation, view = match._aggregation, match._view
    return (
        type(match) is _view_instrument_match._ViewInstrumentMatch
        and type(_maker(match)) in {DefaultAggregation, ExplicitBucketHistogramAggregation}
        and type(aggregation) is _ExplicitBucketHistogramAggregation
        and aggregation._boundaries == DURATION_BOUNDARIES
        and aggregation._record_min_max is True
        and view._attribute_keys is None
        and view._exemplar_reservoir_factory is _default_reservoir_factory
    )


def _maker(match: Any) -> Any:
    """The maker of the aggregations: set by the view, or else by the reader."""
    own = match._view._aggregation
    if not isinstance(own, DefaultAggregation):
        return own
    return match._instrument_class_aggregation[type(match._instrument)]


def _aggregation_in(match: Any, attributes: dict[str, Any], since: int) -> Any:
    """The aggregation of some attributes, made when there is none. With the match's lock held."""
    aggregations = match._attributes_aggregation
    key = (
        frozenset(attributes.items()) if _hash_attributes is None else _hash_attributes(attributes)
    )
    if not hasattr(match, "_get_or_create_aggregation"):  # before 1.45.2
        if key not in aggregations:
            factory = match._view._exemplar_reservoir_factory
            aggregations[key] = _maker(match)._create_aggregation(
                match._instrument, attributes, factory, since
            )
        return aggregations[key]
    before = len(aggregations)
    found = match._get_or_create_aggregation(key, attributes)  # or that of the overflow
    if len(aggregations) > before and not match._previous_collection_start_nanos:
        found._start_time_unix_nano = found._previous_collection_start_nano = since
    return found


def _add(aggregation: Any, measured: Measured) -> None:
    with aggregation._lock:
        counts = aggregation._value or aggregation._get_empty_bucket_counts()
        aggregation._value = [
            count + more for count, more in zip(counts, measured.buckets, strict=True)
        ]
        aggregation._sum += measured.total
        aggregation._min = min(aggregation._min, measured.least)
        aggregation._max = max(aggregation._max, measured.most)
