"""The four metrics of the messaging conventions.

Durations are histograms, recorded once an operation. Counts are kept in cells of our own behind
observable counters: adding to a cell costs a fraction of a synchronous record, and what is exported
is the same monotonic sum. Cells are bounded: once full, new combinations are counted in one
overflow cell, so that no exported sum ever falls.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage
from opentelemetry.metrics import Observation, get_meter, get_meter_provider

from hopspan import conventions as names
from hopspan.entries import shortened
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider

    from hopspan.conventions import MetricAttributes, Plan

_MOST_CELLS = 1024
_OVERFLOW: MetricAttributes = ((names.METRIC_OVERFLOW, True),)


class Cells:
    """Counts by metric attributes. Thread-safe; safe to use in a forked child."""

    def __init__(self, most: int = _MOST_CELLS) -> None:
        self._most = most
        self._counts: dict[MetricAttributes, int] = {}
        self._lock = threading.Lock()
        _every_cells.add(self)

    def add(self, attributes: MetricAttributes, amount: int) -> None:
        """Count `amount` more."""
        counts = self._counts
        with self._lock:
            if attributes not in counts and len(counts) >= self._most:
                attributes = _OVERFLOW
            counts[attributes] = counts.get(attributes, 0) + amount

    def observe(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002
        """The counts so far, for an observable counter."""
        with self._lock:
            counts = list(self._counts.items())
        return [Observation(count, dict(attributes)) for attributes, count in counts]

    def unlock(self) -> None:
        """Replace a lock that another thread may have held while the process forked."""
        self._lock = threading.Lock()


_every_cells: weakref.WeakSet[Cells] = weakref.WeakSet()


def _unlock_in_child() -> None:
    global _making  # noqa: PLW0603 - held by a thread that this process does not have
    _making = threading.Lock()
    for cells in list(_every_cells):
        cells.unlock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_unlock_in_child)


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
        self.operation_duration: Histogram = meter.create_histogram(
            names.OPERATION_DURATION,
            unit="s",
            description="Duration of a messaging operation that this client started",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES,
        )
        self.process_duration: Histogram = meter.create_histogram(
            names.PROCESS_DURATION,
            unit="s",
            description="Duration of processing a message",
            explicit_bucket_boundaries_advisory=names.DURATION_BOUNDARIES,
        )
        self.durations: Combinations = Combinations()
        """Where baggage is among the attributes, which may say anything."""
        self.sent: Cells = Cells()
        self.consumed: Cells = Cells()
        meter.create_observable_counter(
            names.SENT_MESSAGES,
            [self.sent.observe],
            unit="{message}",
            description="Messages that this producer tried to send",
        )
        meter.create_observable_counter(
            names.CONSUMED_MESSAGES,
            [self.consumed.observe],
            unit="{message}",
            description="Messages that were delivered to the application",
        )


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


class Meters:
    """Records what one finished operation adds to the metrics that are switched on."""

    __slots__ = (
        "_consumed", "_durations", "_entries", "_operation_duration", "_process_duration", "_sent",
        "any",
    )  # fmt: skip

    def __init__(
        self,
        provider: MeterProvider | None,
        switched_on: frozenset[str],
        entries: Sequence[str] = (),
    ) -> None:
        instruments = instruments_of(provider) if switched_on else None
        self.any: bool = bool(switched_on)
        """Whether there is anything to record."""
        self._entries = entries
        self._durations = instruments.durations if instruments is not None else None

        def on(name: str, attribute: str) -> Any:
            return getattr(instruments, attribute) if name in switched_on else None

        self._operation_duration = on(names.OPERATION_DURATION, "operation_duration")
        self._process_duration = on(names.PROCESS_DURATION, "process_duration")
        self._sent = on(names.SENT_MESSAGES, "sent")
        self._consumed = on(names.CONSUMED_MESSAGES, "consumed")

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
            self._sent.add(self._attributes(plan.counts, error_type, context), messages)

    def consumed(self, plan: Plan, messages: int, error_type: str | None, context: Context) -> None:
        """Messages handed to the application; each delivery counts once."""
        if self._consumed is not None:
            self._consumed.add(self._attributes(plan.counts, error_type, context), messages)

    def _duration_attributes(
        self, plan: Plan, error_type: str | None, context: Context
    ) -> dict[str, Any]:
        if error_type is None and not self._entries:
            return plan.duration_attributes
        attributes = self._attributes(plan.durations, error_type, context)
        return dict(self._bounded(attributes) if self._entries else attributes)

    def _attributes(
        self, attributes: MetricAttributes, error_type: str | None, context: Context
    ) -> MetricAttributes:
        if error_type is not None:
            attributes = (*attributes, (names.ERROR_TYPE, error_type))
        if self._entries:
            attributes = (*_entries_of(context, self._entries), *attributes)
        return attributes

    def _bounded(self, attributes: MetricAttributes) -> MetricAttributes:
        """For an instrument of the SDK, which may keep every combination that it is given."""
        return attributes if self._durations is None else self._durations.admitted(attributes)


def _entries_of(context: Context, entries: Sequence[str]) -> MetricAttributes:
    """The entries of baggage that are there, in an order that is always the same."""
    there = baggage.get_all(context)
    return tuple((key, shortened(str(there[key]))) for key in entries if key in there)
