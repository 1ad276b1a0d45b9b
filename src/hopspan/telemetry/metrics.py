"""The four metrics of the messaging conventions.

Durations and counts are kept in cells of our own: adding to one costs a fraction of a synchronous
record. The SDK gets the durations when it collects (see `durations`). Counts are behind observable
counters, and what is exported is the same monotonic sum. They are bounded: once full, new
combinations share the count of the overflow, so that no exported sum ever falls. The child of a
fork starts its own counts and durations from nothing.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage
from opentelemetry.metrics import Observation, get_meter, get_meter_provider

from hopspan import conventions as names
from hopspan import faults
from hopspan.entries import shortened
from hopspan.model import OperationType
from hopspan.telemetry.durations import Durations, behind
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.trace import SpanContext

    from hopspan.conventions import MetricAttributes, Plan
    from hopspan.telemetry.aggregations import Aggregations
    from hopspan.telemetry.durations import Cell

_MOST_CELLS = 1024
_MOST_PREPARED = 1024
_OVERFLOW: MetricAttributes = ((names.METRIC_OVERFLOW, True),)


class Count:
    """How many messages there were with the same attributes. Thread-safe.

    Its lock can be taken twice by a thread: the garbage collector may end an operation anywhere.
    """

    __slots__ = ("_lock", "messages")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.messages: int = 0

    def add(self, messages: int) -> None:
        """Count so many more."""
        with self._lock:
            self.messages += messages

    def unlock(self) -> None:
        """Replace a lock that another thread may have held while the process forked."""
        self._lock = threading.RLock()


class Counts:
    """The counts of one counter, by their attributes. Thread-safe."""

    def __init__(self, most: int = _MOST_CELLS) -> None:
        self._most = most
        self._by_attributes: dict[MetricAttributes, Count] = {}
        self._lock = threading.RLock()

    def of(self, attributes: MetricAttributes) -> Count:
        """The count of these attributes, or the one of the overflow."""
        found = self._by_attributes.get(attributes)
        return self._new(attributes) if found is None else found

    def _new(self, attributes: MetricAttributes) -> Count:
        counts = self._by_attributes
        with self._lock:
            if attributes not in counts and len(counts) >= self._most:
                attributes = _OVERFLOW
            return counts.setdefault(attributes, Count())

    def observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        """The counts so far, for an observable counter."""
        with self._lock:
            counts = list(self._by_attributes.items())
        return [
            Observation(count.messages, dict(attributes))
            for attributes, count in counts
            if count.messages
        ]

    def unlock(self) -> None:
        """Replace locks that other threads may have held while the process forked."""
        self._lock = threading.RLock()
        for count in self._by_attributes.values():
            count.unlock()

    def begin_again(self) -> None:
        """Count from zero."""
        for count in self._by_attributes.values():
            count.messages = 0


class Combinations:
    """Which combinations of attributes may be recorded: the first ones. Thread-safe."""

    def __init__(self, most: int = _MOST_CELLS) -> None:
        self._most = most
        self._known: set[MetricAttributes] = set()

    def admitted(self, attributes: MetricAttributes) -> MetricAttributes:
        """These attributes, or those of the overflow. Threads in a race may admit one more each."""
        if attributes not in self._known:
            if len(self._known) >= self._most:
                return _OVERFLOW
            self._known.add(attributes)
        return attributes


class Instruments:
    """The four instruments of one meter provider. Shared by all who use that provider."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter("hopspan", VERSION, provider, names.SCHEMA_URL)
        self._made: list[Any] = []
        self.operation_duration: Durations = self._durations(
            meter,
            names.OPERATION_DURATION,
            "Duration of a messaging operation that this client started",
        )
        self.process_duration: Durations = self._durations(
            meter, names.PROCESS_DURATION, "Duration of processing a message"
        )
        self.combinations: Combinations = Combinations()
        """Where baggage is among the attributes of durations, which may say anything."""
        self.sent: Counts = self._counts(
            meter, names.SENT_MESSAGES, "Messages that this producer tried to send"
        )
        self.consumed: Counts = self._counts(
            meter, names.CONSUMED_MESSAGES, "Messages that were delivered to the application"
        )
        _try_sdk_of(self._made[0])
        _every_instruments.add(self)

    def _durations(self, meter: Meter, name: str, description: str) -> Durations:
        histogram = meter.create_histogram(
            name,
            unit="s",
            description=description,
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES,
        )
        self._made.append(histogram)
        return Durations(histogram, _aggregations_of)

    def _counts(self, meter: Meter, name: str, description: str) -> Counts:
        """Counts behind an observable counter.

        Both counters let the SDK have the durations: it asks them whether or not anything is
        counted, and before it reads its histograms.
        """
        counts = Counts()
        asked = [self.operation_duration.on_collect, self.process_duration.on_collect]
        self._made.append(
            meter.create_observable_counter(
                name, [*asked, counts.observe], unit="{message}", description=description
            )
        )
        return counts

    def begin_again(self) -> None:
        """Start again from nothing, in the child of a fork: the parent tells what was before.

        A count goes on where the SDK cannot be made to forget what it was told: it would take the
        difference for what was counted since, which would be negative.
        """
        for durations in (self.operation_duration, self.process_duration):
            durations.begin_again()
        for counts in (self.sent, self.consumed):
            counts.unlock()
        try:
            for instrument in self._made:
                _forget(instrument)
        except Exception:  # noqa: BLE001 - an SDK that is laid out in another way
            faults.report("starting metrics again in a forked process")
        else:
            for counts in (self.sent, self.consumed):
                counts.begin_again()


def _aggregations_of(instrument: Any) -> Aggregations | None:
    """The SDK's aggregations of a histogram; None where they cannot be merged into."""
    try:
        from hopspan.telemetry.trial import trusted_aggregations_of  # noqa: PLC0415 - of an SDK
    except ImportError:  # there is none, or it has other names
        return None
    return trusted_aggregations_of(instrument)


def _try_sdk_of(histogram: Any) -> None:
    """Let the trial of an SDK be over before the first message, for it takes milliseconds."""
    if hasattr(behind(histogram), "_measurement_consumer"):
        with suppress(ImportError):
            from hopspan.telemetry.trial import succeeds  # noqa: PLC0415 - of an SDK

            succeeds()


def _forget(instrument: Any) -> None:
    """Let the points of an instrument start again from nothing, in the child of a fork.

    The SDK itself lets a child go on from what its parent had measured, which a backend then gets
    twice. Raises where the SDK is laid out in another way.
    """
    real = behind(instrument)
    consumer = getattr(real, "_measurement_consumer", None)
    if consumer is None:  # without an SDK there are no points
        return
    for storage in consumer._reader_storages.values():  # noqa: SLF001 - as in `aggregations`
        for match in storage._instrument_view_instrument_matches.get(real, ()):  # noqa: SLF001
            match._attributes_aggregation = {}  # noqa: SLF001
            match._previous_collection_start_nanos = None  # noqa: SLF001 - new in 1.45.2


_every_instruments: weakref.WeakSet[Instruments] = weakref.WeakSet()


def _begin_again_in_child() -> None:
    global _making  # noqa: PLW0603 - held by a thread that this process does not have
    _making = threading.Lock()
    for instruments in list(_every_instruments):
        instruments.begin_again()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_begin_again_in_child)


_global_instruments: list[Instruments] = []
_instruments: weakref.WeakKeyDictionary[Any, Instruments] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def instruments_of(provider: MeterProvider | None) -> Instruments:
    """The instruments of a provider, made once: of two sets on one meter, one would not count.

    The global provider is the same one, whether it is given by name or not at all.
    """
    with _making:
        shared = get_meter_provider()
        if provider is None or provider is shared:
            if not _global_instruments:
                _global_instruments.append(_instruments.get(shared) or Instruments(None))
            return _global_instruments[0]
        if provider not in _instruments:
            _instruments[provider] = Instruments(provider)
        return _instruments[provider]


class Prepared:
    """Records the success of operations on one plan, without looking anything up. Thread-safe."""

    __slots__ = ("_cell", "_count")

    def __init__(self, cell: Cell | None, count: Count | None) -> None:
        self._cell = cell
        self._count = count

    def succeeded(self, seconds: float, span_context: SpanContext | None, messages: int) -> bool:
        """Record an operation that did not fail, or nothing at all: then return False.

        Args:
            seconds: How long it took.
            span_context: Of its span, if that is sampled, for exemplars.
            messages: How many messages to count; 0 for those that were counted elsewhere.

        Returns:
            False where the way is `Meters.processing` and its like: always or for the moment, for
            want of an SDK, of one that is known, or because baggage is among the attributes.
        """
        if self._cell is not None and not self._cell.add(seconds, span_context):
            return False
        if self._count is not None and messages:
            self._count.add(messages)
        return True


class _Unprepared(Prepared):
    """Where attributes depend on the message."""

    __slots__ = ()

    def succeeded(
        self,
        seconds: float,  # noqa: ARG002
        span_context: SpanContext | None,  # noqa: ARG002
        messages: int,  # noqa: ARG002
    ) -> bool:
        return False


_UNPREPARED = _Unprepared(None, None)


class Meters:
    """Records what one finished operation adds to the metrics that are switched on."""

    __slots__ = (
        "_consumed", "_entries", "_instruments", "_operation_duration", "_prepared",
        "_process_duration", "_sent", "any",
    )  # fmt: skip

    def __init__(
        self,
        provider: MeterProvider | None,
        switched_on: frozenset[str],
        entries: Sequence[str] = (),
    ) -> None:
        instruments = self._instruments = instruments_of(provider) if switched_on else None
        self.any: bool = bool(switched_on)
        """Whether there is anything to record."""
        self._entries = entries
        self._prepared: dict[Plan, Prepared] = {}

        def on(name: str, attribute: str) -> Any:
            return getattr(instruments, attribute) if name in switched_on else None

        self._operation_duration: Durations | None = on(
            names.OPERATION_DURATION, "operation_duration"
        )
        self._process_duration: Durations | None = on(names.PROCESS_DURATION, "process_duration")
        self._sent: Counts | None = on(names.SENT_MESSAGES, "sent")
        self._consumed: Counts | None = on(names.CONSUMED_MESSAGES, "consumed")

    def prepared(self, plan: Plan) -> Prepared:
        """The quick way to record operations of this plan that do not fail. Thread-safe."""
        found = self._prepared.get(plan)
        if found is None:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.clear()  # of use to whoever has it, and soon made again
            found = self._prepared[plan] = self._prepare(plan)
        return found

    def _prepare(self, plan: Plan) -> Prepared:
        if self._entries:
            return _UNPREPARED
        kind = plan.action.type
        if kind is OperationType.INTERNAL:
            return Prepared(None, None)
        is_processing = kind is OperationType.PROCESS
        durations = self._process_duration if is_processing else self._operation_duration
        counts = self._counts_of(kind)
        return Prepared(
            None if durations is None else durations.cell(plan.durations),
            None if counts is None else counts.of(plan.counts),
        )

    def _counts_of(self, kind: OperationType) -> Counts | None:
        if kind is OperationType.SEND:
            return self._sent
        counted = {OperationType.PROCESS, OperationType.RECEIVE}
        return self._consumed if kind in counted else None

    def client_operation(
        self, plan: Plan, seconds: float, error_type: str | None, context: Context
    ) -> None:
        """The duration of a send, receive or settle operation."""
        if self._operation_duration is not None:
            attributes = self._duration_attributes(plan, error_type, context)
            self._operation_duration.record(seconds, attributes, context)

    def processing(
        self, plan: Plan, seconds: float, error_type: str | None, context: Context
    ) -> None:
        """The duration of a process operation."""
        if self._process_duration is not None:
            attributes = self._duration_attributes(plan, error_type, context)
            self._process_duration.record(seconds, attributes, context)

    def sent(self, plan: Plan, messages: int, error_type: str | None, context: Context) -> None:
        """Messages that were tried to be sent, failures included."""
        if self._sent is not None:
            self._sent.of(self._attributes(plan.counts, error_type, context)).add(messages)

    def consumed(self, plan: Plan, messages: int, error_type: str | None, context: Context) -> None:
        """Messages handed to the application; each delivery counts once."""
        if self._consumed is not None:
            self._consumed.of(self._attributes(plan.counts, error_type, context)).add(messages)

    def _duration_attributes(
        self, plan: Plan, error_type: str | None, context: Context
    ) -> MetricAttributes:
        """Bounded where baggage is among them, for the SDK may keep every combination."""
        attributes = self._attributes(plan.durations, error_type, context)
        if self._instruments is None or not self._entries:
            return attributes
        return self._instruments.combinations.admitted(attributes)

    def _attributes(
        self, attributes: MetricAttributes, error_type: str | None, context: Context
    ) -> MetricAttributes:
        if error_type is not None:
            attributes = (*attributes, (names.ERROR_TYPE, error_type))
        if self._entries:
            attributes = (*_entries_of(context, self._entries), *attributes)
        return attributes


def _entries_of(context: Context, entries: Sequence[str]) -> MetricAttributes:
    """The entries of baggage that are there, in an order that is always the same."""
    there = baggage.get_all(context)
    return tuple((key, shortened(str(there[key]))) for key in entries if key in there)
