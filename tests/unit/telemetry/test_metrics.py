"""The four metrics: what is counted is never lost, never twice, and never more than fits."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from hopspan.conventions import (
    CONSUMED_MESSAGES,
    METRICS,
    OPERATION_DURATION,
    PROCESS_DURATION,
    SENT_MESSAGES,
    Action,
    Plan,
)
from hopspan.model import Endpoint, OperationType
from hopspan.telemetry import instruments
from hopspan.telemetry.counts import Counts
from hopspan.telemetry.instruments import instruments_of
from hopspan.telemetry.metrics import Meters
from hopspan.version import VERSION
from tests.unit.support import DEADLINE, Telemetry

ORDERS = (("queue", "orders"),)
RETURNS = (("queue", "returns"),)
SEND = Plan(Action("publish", OperationType.SEND), Endpoint("memory", "orders"))
PROCESS = Plan(Action("process", OperationType.PROCESS), Endpoint("memory", "orders"))


def counted(counts: Counts) -> dict[str, int | float]:
    """What an exporter would see, by the queue's name."""
    return {
        str(next(iter((observed.attributes or {}).values()))): observed.value
        for observed in counts.observe(CallbackOptions())
    }


# -- counts ----------------------------------------------------------------------------------------


def test_counts_add_up() -> None:
    counts = Counts()
    for attributes, amount in [(ORDERS, 1), (RETURNS, 5), (ORDERS, 2)]:
        counts.of(attributes).add(amount)
    assert counted(counts) == {"orders": 3, "returns": 5}


def test_attributes_are_observed_as_a_mapping() -> None:
    counts = Counts()
    counts.of(ORDERS).add(1)
    assert [observed.attributes for observed in counts.observe(CallbackOptions())] == [
        {"queue": "orders"}
    ]


def test_observing_changes_nothing() -> None:
    counts = Counts()
    counts.of(ORDERS).add(1)
    assert counted(counts) == counted(counts)


def test_a_count_that_nothing_was_added_to_is_not_observed() -> None:
    counts = Counts()
    counts.of(ORDERS)
    assert counted(counts) == {}


def test_new_counts_overflow_into_one_when_they_are_full() -> None:
    counts = Counts(most=2)
    for name in ("a", "b", "c", "d"):
        counts.of((("queue", name),)).add(1)
    assert [(dict(o.attributes or {}), o.value) for o in counts.observe(CallbackOptions())] == [
        ({"queue": "a"}, 1),
        ({"queue": "b"}, 1),
        ({"otel.metric.overflow": True}, 2),
    ]


def test_known_counts_go_on_when_they_are_full() -> None:
    counts = Counts(most=1)
    for name in ("a", "b", "a", "b"):
        counts.of((("queue", name),)).add(1)
    assert counted(counts) == {"a": 2, "True": 2}


def test_no_sum_ever_falls() -> None:
    """A backend takes a falling sum for a restart, and counts everything again."""
    counts, before = Counts(most=3), {}
    for number in range(50):
        counts.of((("queue", str(number % 7)),)).add(1)
        after = counted(counts)
        assert {key: value for key, value in before.items() if after.get(key, 0) < value} == {}
        before = after
    assert sum(before.values()) == 50


def test_there_are_at_most_so_many_and_the_overflow() -> None:
    counts = Counts()
    for number in range(3000):
        counts.of((("queue", str(number)),)).add(1)
    assert len(list(counts.observe(CallbackOptions()))) == 1025


def test_threads_lose_no_count() -> None:
    counts, threads, times = Counts(), 8, 2000
    barrier = threading.Barrier(threads + 1, timeout=DEADLINE)

    def hammer() -> None:
        barrier.wait()
        for number in range(times):
            counts.of((("queue", str(number % 3)),)).add(1)

    running = [threading.Thread(target=hammer) for _ in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    while any(thread.is_alive() for thread in running):
        counts.observe(CallbackOptions())
    for thread in running:
        thread.join(DEADLINE)
    assert sum(counted(counts).values()) == threads * times


# -- children of a fork ----------------------------------------------------------------------------


@pytest.fixture
def in_fork() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Run something in a forked child; its exit code, or minus the signal that ended it."""

    def run(work: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            signal.alarm(int(DEADLINE))  # a lock that nobody will release
            try:
                work()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - nothing may leave the child
                traceback.print_exc()
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run  # type: ignore[return-value]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
quiet = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
Forking = Callable[[Callable[[], None]], int]

KINDS = (SdkHistogram, ObservableCounter)


class Service:
    """A process that measures, and what readers of it export."""

    def __init__(self) -> None:
        delta = AggregationTemporality.DELTA
        self.readers = [InMemoryMetricReader(), InMemoryMetricReader(dict.fromkeys(KINDS, delta))]
        provider = MeterProvider(self.readers, Resource({}), shutdown_on_exit=False)
        self.meters = Meters(provider, METRICS)

    def work(self, messages: int) -> None:
        """Handle and send so many messages, the quick way and the general one."""
        for _ in range(messages):
            everything(self.meters)
            for plan in (SEND, PROCESS):
                assert self.meters.prepared(plan).succeeded(0.1, None, 1) is True

    def exported(self, since: int = 0) -> list[dict[str, int]]:
        """For each reader, the sum or count of each metric; none of them starts earlier."""
        return [totals(reader, since) for reader in self.readers]


def totals(reader: InMemoryMetricReader, since: int) -> dict[str, int]:
    found: dict[str, int] = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            if scope.scope.name != "hopspan":
                continue  # the SDK's own
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    assert point.start_time_unix_nano >= since
                    found[metric.name] = point.count if hasattr(point, "count") else point.value
    return found


def of_each(number: int) -> dict[str, int]:
    return dict.fromkeys(METRICS, number)


@forks
@quiet
@pytest.mark.parametrize("is_exported", [False, True])
def test_a_forked_child_starts_from_nothing(in_fork: Forking, *, is_exported: bool) -> None:
    """What was measured before the fork is the parent's, whether or not it was exported by then."""
    service = Service()
    service.work(3)
    if is_exported:
        assert service.exported() == [of_each(6), of_each(6)]

    forked_at = time.time_ns()

    def work() -> None:
        service.work(1)
        assert service.exported(forked_at) == [of_each(2), of_each(2)]
        service.work(1)
        assert service.exported(forked_at) == [of_each(4), of_each(2)]
        assert service.exported(forked_at)[0] == of_each(4)

    assert in_fork(work) == 0
    service.work(1)
    assert service.exported() == [of_each(8), of_each(2 if is_exported else 8)]


@forks
@quiet
def test_a_forked_child_that_does_nothing_exports_nothing(in_fork: Forking) -> None:
    service = Service()
    service.work(3)
    assert service.exported() == [of_each(6), of_each(6)]

    def work() -> None:
        assert service.exported() == [{}, {}]

    assert in_fork(work) == 0


@forks
@quiet
def test_a_forked_child_measures_though_locks_were_held(in_fork: Forking) -> None:
    """Another thread measured at the moment of the fork; it does not exist in the child."""
    service = Service()
    service.work(1)
    prepared = service.meters.prepared(PROCESS)
    parts = [
        prepared._cell, prepared._count, service.meters._process_duration, service.meters._consumed
    ]  # fmt: skip
    held = [each._lock for each in parts if each is not None]
    barrier, done = threading.Barrier(2, timeout=DEADLINE), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in held:
                stack.enter_context(lock)
            barrier.wait()
            done.wait(DEADLINE)

    def work() -> None:
        service.work(1)
        assert service.exported() == [of_each(2), of_each(2)]

    holder = threading.Thread(target=hold)
    holder.start()
    barrier.wait()
    code = in_fork(work)
    done.set()
    holder.join(DEADLINE)
    assert (len(held), code) == (4, 0)


@forks
@quiet
def test_a_forked_child_can_make_instruments_though_the_lock_was_held(in_fork: Forking) -> None:
    with instruments._making:
        code = in_fork(lambda: instruments_of(NoOpMeterProvider()) and None)
    assert code == 0


def test_starting_again_in_a_forked_child(telemetry: Telemetry) -> None:
    """As above, where the coverage of the child can be seen."""
    meters = Meters(telemetry.meter_provider, METRICS)
    everything(meters)
    with instruments._making:
        instruments._begin_again_in_child()
        assert instruments._making.acquire(blocking=False)
        instruments._making.release()
    everything(meters)
    assert [value for name in METRICS for _, value in telemetry.points(name)] == [1, 1, 1, 1]


def test_counts_go_on_in_a_child_where_the_sdk_cannot_be_made_to_forget(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would export the difference from what its parent counted, which is negative."""
    meters = Meters(telemetry.meter_provider, METRICS)
    everything(meters)

    def fail(_: Any) -> None:
        raise AttributeError("_reader_storages")

    monkeypatch.setattr(instruments, "_forget", fail)
    instruments._begin_again_in_child()
    everything(meters)
    assert "starting metrics again" in caplog.text
    assert [value for _, value in telemetry.points(SENT_MESSAGES)] == [2]


# -- instruments -----------------------------------------------------------------------------------


def test_the_instruments_are_the_ones_of_the_conventions(telemetry: Telemetry) -> None:
    meters = Meters(telemetry.meter_provider, METRICS)
    meters.client_operation(SEND, 0.1, None, Context())
    meters.processing(PROCESS, 0.1, None, Context())
    meters.sent(SEND, 1, None, Context())
    meters.consumed(PROCESS, 1, None, Context())
    found = {name: telemetry.metric(name) for name in METRICS}
    assert {name: (metric.unit, type(metric.data).__name__) for name, metric in found.items()} == {
        OPERATION_DURATION: ("s", "Histogram"),
        PROCESS_DURATION: ("s", "Histogram"),
        SENT_MESSAGES: ("{message}", "Sum"),
        CONSUMED_MESSAGES: ("{message}", "Sum"),
    }


@pytest.mark.parametrize("name", [SENT_MESSAGES, CONSUMED_MESSAGES])
def test_counts_are_monotonic(name: str, telemetry: Telemetry) -> None:
    meters = Meters(telemetry.meter_provider, METRICS)
    meters.sent(SEND, 1, None, Context())
    meters.consumed(PROCESS, 1, None, Context())
    assert telemetry.metric(name).data.is_monotonic is True


@pytest.mark.parametrize("name", [OPERATION_DURATION, PROCESS_DURATION])
def test_durations_have_the_advised_boundaries(name: str, telemetry: Telemetry) -> None:
    meters = Meters(telemetry.meter_provider, METRICS)
    meters.client_operation(SEND, 0.1, None, Context())
    meters.processing(PROCESS, 0.1, None, Context())
    (point,) = telemetry.metric(name).data.data_points
    assert point.explicit_bounds == (
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    )  # fmt: skip


def test_the_scope_names_hopspan_its_version_and_the_schema(telemetry: Telemetry) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    Meters(provider, METRICS).sent(SEND, 1, None, Context())
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = [each.scope for resource in data.resource_metrics for each in resource.scope_metrics]
    assert (scope.name, scope.version, scope.schema_url) == (
        "hopspan",
        VERSION,
        "https://opentelemetry.io/schemas/1.44.0",
    )


def everything(meters: Meters) -> None:
    meters.client_operation(SEND, 0.1, None, Context())
    meters.processing(PROCESS, 0.1, None, Context())
    meters.sent(SEND, 1, None, Context())
    meters.consumed(PROCESS, 1, None, Context())


@pytest.mark.parametrize("name", sorted(METRICS))
def test_each_instrument_can_be_switched_on_alone(name: str, telemetry: Telemetry) -> None:
    everything(Meters(telemetry.meter_provider, frozenset({name})))
    assert {each for each in METRICS if telemetry.points(each)} == {name}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_each_instrument_can_be_switched_off_alone(name: str, telemetry: Telemetry) -> None:
    everything(Meters(telemetry.meter_provider, METRICS - {name}))
    assert {each for each in METRICS if telemetry.points(each)} == METRICS - {name}


def test_with_all_switched_off_no_meter_is_asked_for() -> None:
    class Failing:
        def get_meter(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("nobody wants metrics")

    provider: Any = Failing()
    everything(Meters(provider, frozenset()))


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (lambda m, e: m.client_operation(SEND, 0.1, e, Context()), OPERATION_DURATION),
        (lambda m, e: m.processing(PROCESS, 0.1, e, Context()), PROCESS_DURATION),
        (lambda m, e: m.sent(SEND, 1, e, Context()), SENT_MESSAGES),
        (lambda m, e: m.consumed(PROCESS, 1, e, Context()), CONSUMED_MESSAGES),
    ],
)
@pytest.mark.parametrize("error", [None, "ValueError"])
def test_the_error_type_is_there_only_on_failure(
    measure: Any, name: str, error: str | None, telemetry: Telemetry
) -> None:
    measure(Meters(telemetry.meter_provider, METRICS), error)
    ((attributes, _),) = telemetry.points(name)
    assert attributes.get("error.type") == error


# -- what is prepared ------------------------------------------------------------------------------

RECEIVE = Plan(Action("get", OperationType.RECEIVE), Endpoint("memory", "orders"))
SETTLE = Plan(Action("nack", OperationType.SETTLE), Endpoint("memory", "orders"))
INTERNAL = Plan(Action("chord", OperationType.INTERNAL), Endpoint("memory", "orders"))


@pytest.mark.parametrize(
    ("plan", "measured"),
    [
        (SEND, {OPERATION_DURATION: 2, SENT_MESSAGES: 5}),
        (RECEIVE, {OPERATION_DURATION: 2, CONSUMED_MESSAGES: 5}),
        (PROCESS, {PROCESS_DURATION: 2, CONSUMED_MESSAGES: 5}),
        (SETTLE, {OPERATION_DURATION: 2}),
        (INTERNAL, {}),
    ],
    ids=lambda given: given.action.type.value if isinstance(given, Plan) else "",
)
@pytest.mark.parametrize("switched_on", [METRICS, *(METRICS - {name} for name in sorted(METRICS))])
def test_what_is_prepared_records_what_its_operation_is_measured_by(
    plan: Plan, measured: dict[str, int], switched_on: frozenset[str], telemetry: Telemetry
) -> None:
    meters = Meters(telemetry.meter_provider, switched_on)
    for durations in (meters.processing, meters.client_operation):  # to know the SDK
        durations(SEND, 0.1, None, Context())
    before = {name: sum(value for _, value in telemetry.points(name)) for name in METRICS}
    for messages in (0, 5):
        assert meters.prepared(plan).succeeded(0.25, None, messages) is True
    after = {name: sum(value for _, value in telemetry.points(name)) for name in METRICS}
    assert {name: after[name] - before[name] for name in METRICS if after[name] > before[name]} == {
        name: value for name, value in measured.items() if name in switched_on
    }


@pytest.mark.parametrize("plan", [SEND, PROCESS])
def test_what_is_prepared_adds_to_the_same_points(plan: Plan, telemetry: Telemetry) -> None:
    meters = Meters(telemetry.meter_provider, METRICS)
    everything(meters)
    assert meters.prepared(plan).succeeded(0.25, None, 1) is True
    everything(meters)
    found = {name: [value for _, value in telemetry.points(name)] for name in METRICS}
    assert sorted(found.values()) == [[2], [2], [3], [3]]


def test_what_is_prepared_stays_good_when_it_is_forgotten(telemetry: Telemetry) -> None:
    meters = Meters(telemetry.meter_provider, METRICS)
    everything(meters)
    prepared = meters.prepared(PROCESS)
    assert meters.prepared(PROCESS) is prepared
    for _ in range(1030):
        meters.prepared(Plan(Action("process", OperationType.PROCESS), Endpoint("memory", "x")))
    assert meters.prepared(PROCESS) is not prepared
    for each in (prepared, meters.prepared(PROCESS)):
        assert each.succeeded(0.25, None, 1) is True
    assert [value for _, value in telemetry.points(PROCESS_DURATION)] == [3]


def test_with_all_switched_off_what_is_prepared_does_nothing() -> None:
    assert Meters(None, frozenset()).prepared(PROCESS).succeeded(0.25, None, 1) is True


# -- one set for each provider ---------------------------------------------------------------------


def test_two_faces_that_share_a_provider_share_its_instruments(telemetry: Telemetry) -> None:
    """Two sets on one meter would report twice, or one of them not at all."""
    for _ in range(2):
        everything(Meters(telemetry.meter_provider, METRICS))
    assert {name: [value for _, value in telemetry.points(name)] for name in METRICS} == {
        name: [2] for name in METRICS
    }


def test_providers_do_not_share(telemetry: Telemetry, unsampled: Telemetry) -> None:
    everything(Meters(telemetry.meter_provider, METRICS))
    assert unsampled.points(SENT_MESSAGES) == []


def test_instruments_go_with_their_provider() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    instruments_of(provider)
    found = weakref.ref(provider)
    del provider
    gc.collect()
    assert found() is None


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """As in a process in which no global meter provider was set yet; gives the way to set one."""
    current: list[Any] = [NoOpMeterProvider()]
    monkeypatch.setattr(instruments, "_global_instruments", [])
    monkeypatch.setattr(instruments, "get_meter_provider", lambda: current[0])
    monkeypatch.setattr(
        instruments,
        "get_meter",
        lambda name, version, provider, schema: (provider or current[0]).get_meter(
            name, version, schema
        ),
    )
    return lambda provider: current.__setitem__(0, provider)


def test_the_global_provider_is_one_whether_named_or_not(
    unset: Callable[[Any], None], telemetry: Telemetry
) -> None:
    """One face is given it by name, another takes it as the default: their counts are one sum."""
    unset(telemetry.meter_provider)
    everything(Meters(None, METRICS))
    everything(Meters(telemetry.meter_provider, METRICS))
    assert [value for _, value in telemetry.points(SENT_MESSAGES)] == [2]


def test_the_global_provider_is_one_also_when_it_was_named_first(
    unset: Callable[[Any], None], telemetry: Telemetry
) -> None:
    everything(Meters(telemetry.meter_provider, METRICS))
    unset(telemetry.meter_provider)
    everything(Meters(None, METRICS))
    assert [value for _, value in telemetry.points(SENT_MESSAGES)] == [2]


def test_the_default_instruments_are_made_once(unset: Callable[[Any], None]) -> None:
    """Also when a provider is set later: the API's proxies hand over to it."""
    first = instruments_of(None)
    unset(NoOpMeterProvider())
    assert instruments_of(None) is first


# -- baggage ---------------------------------------------------------------------------------------

METERS = [
    (lambda meters, context: meters.client_operation(SEND, 0.1, None, context), OPERATION_DURATION),
    (lambda meters, context: meters.processing(PROCESS, 0.1, None, context), PROCESS_DURATION),
    (lambda meters, context: meters.sent(SEND, 1, None, context), SENT_MESSAGES),
    (lambda meters, context: meters.consumed(PROCESS, 1, None, context), CONSUMED_MESSAGES),
]
"""How each metric is recorded."""


def carrying(**entries: Any) -> Context:
    context = Context()
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)
    return context


@pytest.mark.parametrize(("record", "metric"), METERS, ids=[metric for _, metric in METERS])
def test_entries_that_are_named_are_attributes_in_one_order(
    record: Any, metric: str, telemetry: Telemetry
) -> None:
    meters = Meters(telemetry.meter_provider, METRICS, ("tenant", "tier", "absent"))
    record(meters, carrying(tenant="t1", tier=1, secret="s"))
    record(meters, carrying(tier="1", secret="z", tenant="t1"))
    record(meters, carrying(tenant="t2" * 1000))
    record(meters, Context())
    points = [
        ({key: each.get(key) for key in ("tenant", "tier", "secret", "absent")}, number)
        for each, number in telemetry.points(metric)
    ]
    nothing = dict.fromkeys(("tenant", "tier", "secret", "absent"))
    assert points == [
        ({**nothing, "tenant": "t1", "tier": "1"}, 2),
        ({**nothing, "tenant": "t2" * 512}, 1),
        (nothing, 1),
    ]


@pytest.mark.parametrize(("record", "metric"), METERS, ids=[metric for _, metric in METERS])
def test_a_sender_cannot_make_metrics_grow_without_end(
    record: Any, metric: str, telemetry: Telemetry
) -> None:
    meters = Meters(telemetry.meter_provider, METRICS, ("tenant",))
    for number in range(1030):
        record(meters, carrying(tenant=f"t{number}"))
    record(meters, carrying(tenant="t0"))
    points = telemetry.points(metric)
    assert len(points) == 1025
    assert points[-1] == ({"otel.metric.overflow": True}, 6)
    assert points[0][0]["tenant"] == "t0"
    assert points[0][1] == 2


def test_an_entry_never_takes_the_place_of_an_attribute_of_ours(telemetry: Telemetry) -> None:
    meters = Meters(telemetry.meter_provider, METRICS, ("messaging.system",))
    context = baggage.set_baggage("messaging.system", "evil", Context())
    for record, _ in METERS:
        record(meters, context)
    systems = {
        attributes["messaging.system"]
        for _, metric in METERS
        for attributes, _ in telemetry.points(metric)
    }
    assert systems == {"memory"}
