"""Durations in cells: whatever the SDK is set to, it exports what it would of recorded ones.

Two meter providers with the same settings get the same measurements at the same time, one of them by
`histogram.record`. Whole metrics are compared: points, sums, extremes, exemplars, times.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, NoOpMeterProvider
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
    use_span,
)

from hopspan.conventions import (
    CONSUMED_MESSAGES,
    DURATION_BOUNDARIES,
    METRICS,
    PROCESS_DURATION,
    SCHEMA_URL,
    SENT_MESSAGES,
    Action,
    Plan,
)
from hopspan.model import Endpoint, OperationType
from hopspan.telemetry import durations, trial
from hopspan.telemetry.metrics import Meters
from hopspan.version import VERSION
from tests.unit.support import DEADLINE

PLANS = [Plan(Action("process", OperationType.PROCESS), Endpoint("memory", q)) for q in "abc"]
PROCESS = PLANS[0]


def inside(span: int, *, sampled: bool) -> Context:
    """A context in which such a span is current."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    span_context = SpanContext(1, span, is_remote=False, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span_context), Context())


UNSAMPLED = inside(9, sampled=False)


class Clock:
    """The time for the SDK and for cells: it goes on only where a test says so."""

    MODULES = (
        "hopspan.telemetry.durations",
        "opentelemetry.sdk.metrics._internal._view_instrument_match",
        "opentelemetry.sdk.metrics._internal.instrument",
        "opentelemetry.sdk.metrics._internal.measurement_consumer",
        "opentelemetry.sdk.metrics._internal.metric_reader_storage",
    )

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now

    def tick(self) -> None:
        self.now += 1000


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for name in Clock.MODULES:
            patch.setattr(sys.modules[name], "time_ns", clock)
        yield clock


class Setup(NamedTuple):
    """How an application sets the SDK up."""

    deltas: tuple[bool, ...] = (False, True)
    """For each reader, whether it wants deltas."""
    views: tuple[View, ...] = ()
    exemplars: type = TraceBasedExemplarFilter
    aggregation: Any = None
    """That the first reader prefers for histograms."""


def reader_of(*, delta: bool, aggregation: Any = None) -> InMemoryMetricReader:
    wanted = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
    preferred: Any = None if aggregation is None else {SdkHistogram: aggregation}
    return InMemoryMetricReader({SdkHistogram: wanted}, preferred)


class Way:
    """A meter provider, and a way to measure with it."""

    def __init__(self, setup: Setup) -> None:
        self.readers = [
            reader_of(delta=delta, aggregation=None if number else setup.aggregation)
            for number, delta in enumerate(setup.deltas)
        ]
        self.provider = MeterProvider(
            self.readers,
            Resource({}),
            setup.exemplars(),
            shutdown_on_exit=False,
            views=setup.views,
        )

    def collected(self, reader: int = 0) -> list[Any]:
        """The histograms of ours that a reader exports."""
        return histograms(self.readers[reader])

    def add_reader(self, *, delta: bool) -> None:
        self.readers.append(reader_of(delta=delta))
        self.provider.add_metric_reader(self.readers[-1])  # type: ignore[attr-defined, unused-ignore]


def histograms(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    return [
        metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if scope.scope.name == "hopspan" and metric.name not in {SENT_MESSAGES, CONSUMED_MESSAGES}
    ]


class Merged(Way):
    """By cells, and as the core does it."""

    def __init__(self, setup: Setup, entries: tuple[str, ...] = ()) -> None:
        super().__init__(setup)
        self.meters = Meters(self.provider, METRICS, entries)

    def measure(self, plan: Plan, seconds: float, error: str | None, context: Context) -> None:
        self.meters.processing(plan, seconds, error, context)

    def succeed(self, plan: Plan, seconds: float, context: Context) -> None:
        """As the core does it for an operation that did not fail."""
        span_context = get_current_span(context).get_span_context()
        sampled = span_context if span_context.trace_flags.sampled else None
        if not self.meters.prepared(plan).succeeded(seconds, sampled, 1):
            self.measure(plan, seconds, None, context)

    @property
    def uses_cells(self) -> bool:
        """Whether the quick way is open. Measures two seconds of another queue."""
        other = Plan(Action("process", OperationType.PROCESS), Endpoint("memory", "other"))
        self.measure(other, 1.0, None, UNSAMPLED)
        return self.meters.prepared(other).succeeded(1.0, None, 0)


class Recorded(Way):
    """By the SDK's instrument alone."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.histogram: Histogram = self.provider.get_meter(
            "hopspan", VERSION, SCHEMA_URL
        ).create_histogram(
            PROCESS_DURATION,
            unit="s",
            description="Duration of processing a message",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES,
        )

    def measure(self, plan: Plan, seconds: float, error: str | None, context: Context) -> None:
        attributes = dict(plan.durations)
        if error is not None:
            attributes["error.type"] = error
        self.histogram.record(seconds, attributes, context)

    def succeed(self, plan: Plan, seconds: float, context: Context) -> None:
        self.measure(plan, seconds, None, context)


class Twins:
    """The same for both ways, at the same time."""

    def __init__(self, setup: Setup, clock: Clock) -> None:
        self.merged, self.recorded, self.clock = Merged(setup), Recorded(setup), clock

    def measure(
        self,
        seconds: float,
        context: Context = UNSAMPLED,
        plan: Plan = PROCESS,
        error: str | None = None,
    ) -> None:
        self.clock.tick()
        for way in (self.merged, self.recorded):
            way.measure(plan, seconds, error, context)

    def succeed(self, seconds: float, context: Context = UNSAMPLED, plan: Plan = PROCESS) -> None:
        self.clock.tick()
        for way in (self.merged, self.recorded):
            way.succeed(plan, seconds, context)

    def add_reader(self, *, delta: bool) -> None:
        self.clock.tick()
        for way in (self.merged, self.recorded):
            way.add_reader(delta=delta)

    def compare(self, reader: int) -> list[Any]:
        """Let a reader of each collect; what it exported, which must be the same."""
        self.clock.tick()
        merged, recorded = self.merged.collected(reader), self.recorded.collected(reader)
        assert merged == recorded
        return merged

    def compare_all(self) -> None:
        for reader in range(len(self.merged.readers)):
            self.compare(reader)


# -- the same points, whatever happens -------------------------------------------------------------

SECONDS = [0.0, 0.00390625, 0.0625, 0.25, 0.5, 1.0, 2.5, 10.0, 64.0]
"""Some on a boundary; their sums are exact, in whatever order they are added up."""

LIMITED = "aggregation_cardinality_limit" in inspect.signature(View.__init__).parameters
"""Whether this SDK limits how many attributes there may be."""


def custom_reservoirs(_aggregation: type) -> Any:
    from opentelemetry.sdk.metrics import SimpleFixedSizeExemplarReservoir  # noqa: PLC0415

    return lambda **_given: SimpleFixedSizeExemplarReservoir(size=1)


def view(**given: Any) -> View:
    return View(instrument_name=PROCESS_DURATION, **given)


def buckets(*boundaries: float, **given: Any) -> View:
    return view(aggregation=ExplicitBucketHistogramAggregation(boundaries, **given))


VIEWS: dict[str, tuple[View, ...]] = {
    "none": (),
    "another instrument's": (View(instrument_name="other", aggregation=DropAggregation()),),
    "new name": (view(name="renamed", description="Of another kind"),),
    "twice": (view(), view(name="again")),
    "our buckets": (buckets(*DURATION_BOUNDARIES),),
    "dropped": (view(aggregation=DropAggregation()),),
    "dropped and kept": (view(aggregation=DropAggregation()), view(name="kept")),
}
"""With which durations are in cells."""

OTHER_VIEWS: dict[str, tuple[View, ...]] = {
    "other buckets": (buckets(0.1, 1.0),),
    "no extremes": (buckets(*DURATION_BOUNDARIES, record_min_max=False),),
    "fewer attributes": (view(attribute_keys={"messaging.system"}),),
    "no attributes": (view(attribute_keys=set()),),
    "exponential": (view(aggregation=ExponentialBucketHistogramAggregation()),),
    "one of two": (view(), buckets(0.1, 1.0)),
}
"""With which they are recorded; and so are those with reservoirs of the application's own."""

if LIMITED:
    VIEWS["limited"] = (view(aggregation_cardinality_limit=2),)
    VIEWS["limited to one"] = (view(aggregation_cardinality_limit=1),)

setups = st.builds(
    Setup,
    deltas=st.lists(st.booleans(), min_size=1, max_size=3).map(tuple),
    views=st.sampled_from([*VIEWS.values(), *OTHER_VIEWS.values()]),
    exemplars=st.sampled_from(
        [TraceBasedExemplarFilter, AlwaysOffExemplarFilter, AlwaysOnExemplarFilter]
    ),
    aggregation=st.none(),
)
measuring = st.tuples(
    st.sampled_from(["measure", "succeed"]),
    st.sampled_from(PLANS),
    st.sampled_from(SECONDS),
    st.sampled_from([None, None, "ValueError", "KeyError"]),
    st.integers(0, 5),
)
collecting = st.tuples(st.just("collect"), st.integers(0, 2))
steps = st.lists(st.one_of(measuring, measuring, collecting), max_size=30)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(setup=setups, steps=steps)
def test_what_is_exported_is_what_recording_exports(
    setup: Setup, steps: list[tuple[Any, ...]], clock: Clock
) -> None:
    twins = Twins(setup, clock)
    for step in steps:
        if step[0] == "collect":
            twins.compare(step[1] % len(setup.deltas))
            continue
        how, plan, seconds, error, span = step
        context = inside(span + 1, sampled=True) if span % 2 else UNSAMPLED
        if how == "succeed":
            twins.succeed(seconds, context, plan)
        else:
            twins.measure(seconds, context, plan, error)
    twins.compare_all()
    twins.compare_all()


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("exemplars", [TraceBasedExemplarFilter, AlwaysOffExemplarFilter])
def test_cells_are_used_where_a_view_aggregates_as_they_do(
    views: tuple[View, ...], exemplars: type
) -> None:
    assert Merged(Setup(views=views, exemplars=exemplars)).uses_cells is True


@pytest.mark.parametrize(
    "setup",
    [
        *(pytest.param(Setup(views=views), id=name) for name, views in OTHER_VIEWS.items()),
        pytest.param(Setup(exemplars=AlwaysOnExemplarFilter), id="all exemplars"),
        pytest.param(
            Setup(views=(view(exemplar_reservoir_factory=custom_reservoirs),)), id="reservoirs"
        ),
        pytest.param(Setup(aggregation=ExponentialBucketHistogramAggregation()), id="preferred"),
    ],
)
def test_durations_are_recorded_where_it_aggregates_in_another_way(
    setup: Setup, clock: Clock
) -> None:
    twins = Twins(setup, clock)
    for seconds in SECONDS:
        twins.succeed(seconds, inside(3, sampled=True))
        twins.compare_all()
    assert twins.merged.uses_cells is False


def test_an_exemplar_is_the_last_sampled_one_of_its_bucket_and_of_when_it_was_measured(
    clock: Clock,
) -> None:
    twins = Twins(Setup(), clock)
    twins.succeed(0.25, inside(1, sampled=True))
    twins.succeed(0.2, inside(2, sampled=True))
    measured_at = clock.now
    twins.succeed(0.2, UNSAMPLED)
    (metric,) = twins.compare(0)
    (exemplar,) = metric.data.data_points[0].exemplars
    assert (exemplar.value, exemplar.span_id, exemplar.time_unix_nano) == (0.2, 2, measured_at)


def test_an_empty_context_stands_for_the_current_one(clock: Clock) -> None:
    """As it does for an instrument of the SDK."""
    twins = Twins(Setup(), clock)
    with use_span(get_current_span(inside(7, sampled=True))):
        twins.measure(0.25, Context())
    (metric,) = twins.compare(0)
    assert [each.span_id for each in metric.data.data_points[0].exemplars] == [7]


def test_a_point_starts_with_its_first_duration(clock: Clock) -> None:
    """Not when the SDK first collects it."""
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    first = clock.now
    twins.succeed(0.25)
    (metric,) = twins.compare(0)
    assert metric.data.data_points[0].start_time_unix_nano == first


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_number_that_is_no_duration_is_left_to_the_sdk(seconds: float, clock: Clock) -> None:
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    twins.succeed(seconds)
    merged, recorded = repr(twins.merged.collected()), repr(twins.recorded.collected())
    assert merged == recorded  # repr: not a number equals nothing


# -- readers that come and go ----------------------------------------------------------------------

readers_change = pytest.mark.skipif(
    not hasattr(MeterProvider, "add_metric_reader"), reason="the readers of this SDK are fixed"
)


@readers_change
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("next_step", ["measure", "collect the old one", "collect the new one"])
def test_a_reader_that_comes_later_has_what_came_later(
    next_step: str, clock: Clock, *, delta: bool
) -> None:
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    twins.add_reader(delta=delta)
    if next_step == "measure":
        twins.succeed(0.5)
    else:
        twins.compare(0 if next_step == "collect the old one" else 2)
    twins.compare_all()
    assert twins.merged.uses_cells is True


@readers_change
def test_a_reader_that_goes_leaves_the_others_what_they_have(clock: Clock) -> None:
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    for way in (twins.merged, twins.recorded):
        way.provider.remove_metric_reader(way.readers[0])  # type: ignore[attr-defined, unused-ignore]
    twins.succeed(0.5)
    twins.compare(1)


@readers_change
def test_a_reader_may_come_that_aggregates_in_another_way(clock: Clock) -> None:
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    for way in (twins.merged, twins.recorded):
        way.readers.append(
            reader_of(delta=True, aggregation=ExponentialBucketHistogramAggregation())
        )
        way.provider.add_metric_reader(way.readers[-1])  # type: ignore[attr-defined, unused-ignore]
    for seconds in SECONDS:
        twins.succeed(seconds)
    twins.compare_all()
    assert twins.merged.uses_cells is False


# -- more attributes than cells --------------------------------------------------------------------


def test_with_more_attributes_than_cells_the_rest_is_recorded(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durations.Durations.__init__, "__defaults__", (3,))
    twins = Twins(Setup(), clock)
    for number in range(5):
        twins.measure(0.25, error=f"Error{number}")
    twins.compare_all()
    for number in range(5):
        twins.measure(0.5, inside(number + 1, sampled=True), error=f"Error{number}")
        twins.succeed(0.5)
    twins.compare_all()
    assert twins.merged.uses_cells is False


def test_what_is_in_cells_comes_first_when_there_are_too_many(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it merged only when the SDK collects, its point would start too late."""
    monkeypatch.setattr(durations.Durations.__init__, "__defaults__", (2,))
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    for plan in PLANS:
        twins.merged.meters.prepared(plan)
    twins.succeed(0.5)
    twins.compare_all()


# -- when the SDK collects -------------------------------------------------------------------------


class Kept(MetricExporter):
    """Exports into a list."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def export(self, metrics_data: Any, timeout_millis: float = 0, **_: Any) -> MetricExportResult:
        for resource in metrics_data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == PROCESS_DURATION:
                        self.counts += [point.count for point in metric.data.data_points]
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True


def test_flushing_and_shutting_down_export_the_last_durations() -> None:
    exporter = Kept()
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], Resource({}), shutdown_on_exit=False)
    meters = Meters(provider, METRICS)
    prepared = meters.prepared(PROCESS)
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    provider.force_flush()
    assert exporter.counts == [1]
    assert prepared.succeeded(0.25, None, 1) is True
    provider.shutdown()
    assert exporter.counts == [1, 2]


@pytest.mark.parametrize("switched_on", [METRICS, frozenset({PROCESS_DURATION})])
def test_durations_are_exported_whether_or_not_messages_are_counted(
    switched_on: frozenset[str],
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource({}), shutdown_on_exit=False)
    meters = Meters(provider, switched_on)
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    assert meters.prepared(PROCESS).succeeded(0.25, None, 1) is True
    assert [metric.data.data_points[0].count for metric in histograms(reader)] == [2]


def test_durations_are_exported_where_a_view_drops_the_counters(clock: Clock) -> None:
    twins = Twins(
        Setup(views=(View(instrument_name="*messages", aggregation=DropAggregation()),)), clock
    )
    twins.succeed(0.25)
    assert len(twins.compare(0)) == 1


def test_durations_are_recorded_where_the_counters_are_not_ours() -> None:
    """The SDK ignores the callbacks of a second counter of the same name."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource({}), shutdown_on_exit=False)
    meter = provider.get_meter("hopspan", VERSION, SCHEMA_URL)
    for name, description in [
        (SENT_MESSAGES, "Messages that this producer tried to send"),
        (CONSUMED_MESSAGES, "Messages that were delivered to the application"),
    ]:
        meter.create_observable_counter(name, [], unit="{message}", description=description)
    meters = Meters(provider, METRICS)
    for _ in range(2):
        meters.processing(PROCESS, 0.25, None, UNSAMPLED)
        assert meters.prepared(PROCESS).succeeded(0.25, None, 1) is False
    assert [metric.data.data_points[0].count for metric in histograms(reader)] == [2]


def test_nothing_is_exported_of_what_was_never_measured() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource({}), shutdown_on_exit=False)
    Meters(provider, METRICS).prepared(PROCESS)
    assert reader.get_metrics_data() is None


def test_threads_lose_no_duration() -> None:
    reader = reader_of(delta=True)
    provider = MeterProvider([reader], Resource({}), shutdown_on_exit=False)
    meters, threads, times, counted = Meters(provider, METRICS), 8, 3000, -1
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    barrier = threading.Barrier(threads + 1, timeout=DEADLINE)

    def hammer(number: int) -> None:
        barrier.wait()
        for _ in range(times):
            meters.prepared(PLANS[number % 3]).succeeded(0.25, None, 1)

    running = [threading.Thread(target=hammer, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    while True:
        is_last = not any(thread.is_alive() for thread in running)
        for metric in histograms(reader):
            for point in metric.data.data_points:
                assert (point.sum, sum(point.bucket_counts)) == (0.25 * point.count, point.count)
                counted += point.count
        if is_last:
            break
    assert counted == threads * times


# -- an SDK that is not there, or not known --------------------------------------------------------


@pytest.fixture
def untried() -> Iterator[None]:
    """The SDK is tried again, and so it is by whoever comes next."""
    trial.succeeds.cache_clear()
    yield
    trial.succeeds.cache_clear()


def test_durations_are_measured_once_a_provider_is_set() -> None:
    """Those before it go nowhere, as they do with any instrument."""
    from opentelemetry.metrics._internal import _ProxyMeterProvider  # noqa: PLC0415

    proxy, reader = _ProxyMeterProvider(), InMemoryMetricReader()
    meters = Meters(proxy, METRICS)
    prepared = meters.prepared(PROCESS)
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    assert prepared.succeeded(0.25, None, 1) is False
    proxy.on_set_meter_provider(MeterProvider([reader], Resource({}), shutdown_on_exit=False))
    meters.processing(PROCESS, 0.5, None, UNSAMPLED)
    assert prepared.succeeded(0.5, None, 1) is True
    assert [metric.data.data_points[0].sum for metric in histograms(reader)] == [1.0]


def test_the_first_duration_finds_out_whether_cells_are_of_use() -> None:
    """Asked before, a reader of deltas would take the durations to begin with its last collection."""
    meters = Merged(Setup()).meters
    assert meters.prepared(PROCESS).succeeded(0.25, None, 1) is False
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    assert meters.prepared(PROCESS).succeeded(0.25, None, 1) is True


def test_the_trial_is_over_before_the_first_duration(untried: None) -> None:
    """It takes milliseconds, for which no message should wait."""
    assert trial.succeeds.cache_info().currsize == 0
    _ = Merged(Setup()).meters
    assert trial.succeeds.cache_info().currsize == 1


def test_without_an_sdk_the_general_way_is_the_only_one() -> None:
    meters = Meters(NoOpMeterProvider(), METRICS)
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    assert meters.prepared(PROCESS).succeeded(0.25, None, 1) is False


def doubling(aggregate: Callable[..., None]) -> Callable[..., None]:
    def doubled(aggregation: Any, measurement: Any, *given: Any) -> None:
        aggregate(aggregation, measurement, *given)
        aggregation._sum += measurement.value

    return doubled


def test_an_sdk_that_aggregates_in_another_way_gets_every_duration(
    clock: Clock, untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks as known; the trial finds it out."""
    from opentelemetry.sdk.metrics._internal import aggregation  # noqa: PLC0415

    kind = aggregation._ExplicitBucketHistogramAggregation
    monkeypatch.setattr(kind, "aggregate", doubling(kind.aggregate))
    twins = Twins(Setup(), clock)
    twins.succeed(0.25)
    twins.compare_all()
    assert twins.merged.uses_cells is False


def test_an_sdk_that_asks_too_late_gets_every_duration(
    untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the histograms read before the callbacks are called, the last durations would be lost."""
    from opentelemetry.sdk.metrics._internal import measurement_consumer  # noqa: PLC0415

    kind = measurement_consumer.SynchronousMeasurementConsumer

    def collect(consumer: Any, reader: Any, **_: Any) -> Any:
        found = consumer._reader_storages[reader].collect()
        for instrument in consumer._async_instruments:
            list(instrument.callback(None))
        return found

    monkeypatch.setattr(kind, "collect", collect)
    assert Merged(Setup()).uses_cells is False


def test_an_sdk_with_classes_that_are_not_known_gets_every_duration() -> None:
    way = Recorded(Setup())
    consumer = way.provider._measurement_consumer

    class Other(type(consumer)):  # type: ignore[misc]
        """Whatever it may do."""

    consumer.__class__ = Other
    meters = Meters(way.provider, METRICS)
    meters.processing(PROCESS, 0.25, None, UNSAMPLED)
    assert meters.prepared(PROCESS).succeeded(0.25, None, 0) is False


def test_an_sdk_that_fails_when_durations_are_merged_gets_those_that_follow(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hopspan.telemetry.aggregations import Aggregations  # noqa: PLC0415

    merged, recorded = Merged(Setup()), Recorded(Setup())
    merged.measure(PROCESS, 0.25, None, UNSAMPLED)

    def fail(*_: Any) -> None:
        raise AttributeError("_value")

    monkeypatch.setattr(Aggregations, "merge", fail)
    assert merged.collected() == []
    assert "merging durations" in caplog.text
    for way in (merged, recorded):
        way.succeed(PROCESS, 0.25, UNSAMPLED)
    assert merged.collected() == recorded.collected()


# -- with baggage among the attributes -------------------------------------------------------------


def test_with_baggage_among_the_attributes_the_general_way_is_the_only_one() -> None:
    assert Merged(Setup(), entries=("tenant",)).uses_cells is False
