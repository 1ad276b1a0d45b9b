"""The four instruments of the messaging conventions, made once for each meter provider.

The child of a fork starts its own counts and durations from nothing: its parent exports what was
measured before. The SDK alone would let it go on from its parent's figures.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import get_meter, get_meter_provider

from hopspan import conventions as names
from hopspan import faults
from hopspan.telemetry.counts import MOST_COUNTS, OVERFLOW, Counts
from hopspan.telemetry.durations import Durations, behind
from hopspan.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

    from hopspan.conventions import MetricAttributes
    from hopspan.telemetry.aggregations import Aggregations


class Combinations:
    """Which combinations of attributes may be recorded: the first ones. Thread-safe."""

    def __init__(self, most: int = MOST_COUNTS) -> None:
        self._most = most
        self._known: set[MetricAttributes] = set()

    def admitted(self, attributes: MetricAttributes) -> MetricAttributes:
        """These attributes, or those of the overflow. Threads in a race may admit one more each."""
        if attributes not in self._known:
            if len(self._known) >= self._most:
                return OVERFLOW
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
