"""Durations in cells of our own, which the SDK gets when it collects.

Recording a duration by the SDK's histogram takes ten times as long as adding it to a cell. Cells
are merged into the SDK's aggregations by a callback of an observable instrument: the SDK calls it
before it reads its histograms, whichever reader collects. The exported points are those of
recordings, for every reader and view: buckets, sum, extremes, exemplars and times. Only the last
binary digit of a sum may differ where several readers collect at different times, since the same
numbers are added up in another order.

Where that cannot be, the histogram records each duration: while there is no provider, and for good
where the SDK or a view is not as known, or when there are more attributes than cells.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, get_current_span

from hopspan import faults
from hopspan.conventions import DURATION_BOUNDARIES
from hopspan.telemetry.measured import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Histogram, Observation

    from hopspan.conventions import MetricAttributes
    from hopspan.telemetry.aggregations import Aggregations
    from hopspan.telemetry.measured import Exemplar

MOST_CELLS = 2000
"""As many attributes as the SDK keeps apart, where nothing else is set."""


class Cell:
    """The durations of one histogram with the same attributes. Thread-safe.

    Its lock can be taken twice by a thread: the garbage collector may end an operation anywhere.
    """

    __slots__ = (
        "_buckets", "_durations", "_exemplars", "_least", "_lock", "_most", "_total", "attributes",
        "since",
    )  # fmt: skip

    def __init__(self, durations: Durations, attributes: MetricAttributes) -> None:
        self._durations = durations
        self.attributes: MetricAttributes = attributes
        self.begin_again()

    def begin_again(self) -> None:
        """Hold nothing, under a new lock: another thread may have held the old one in a fork."""
        self._lock = threading.RLock()
        self._clear()

    def _clear(self) -> None:
        self.since: int = 0
        """Time of the first duration, in nanoseconds since the epoch; 0 where there is none."""
        self._buckets = [0] * (len(DURATION_BOUNDARIES) + 1)
        self._total, self._least, self._most = 0.0, math.inf, -math.inf
        self._exemplars: dict[int, Exemplar] = {}

    def add(self, seconds: float, span_context: SpanContext | None) -> bool:
        """Add a duration, or return False: then it has to be recorded by the histogram.

        Args:
            seconds: How long it took.
            span_context: Of the span that was current, if that is sampled.
        """
        durations = self._durations
        if (
            durations.readers is not durations.consumer._reader_storages  # noqa: SLF001 - as known
            or not 0.0 <= seconds < math.inf
        ):
            return False
        index = bisect_left(DURATION_BOUNDARIES, seconds)
        with self._lock:
            if not self.since:
                self.since = time_ns()
            self._buckets[index] += 1
            self._total += seconds
            if seconds < self._least:  # noqa: PLR1730 - this is called for every message
                self._least = seconds
            if seconds > self._most:  # noqa: PLR1730
                self._most = seconds
            if span_context is not None:
                self._exemplars[index] = seconds, time_ns(), span_context
        return True

    def take(self) -> Measured:
        """The content; there is none afterwards."""
        with self._lock:
            measured = Measured(
                self.attributes, self.since, self._buckets, self._total, self._least, self._most,
                list(self._exemplars.values()),
            )  # fmt: skip
            self._clear()
        return measured


class _Full(Cell):
    """In place of one cell too many."""

    __slots__ = ()

    def add(self, seconds: float, span_context: SpanContext | None) -> bool:  # noqa: ARG002
        return False


class _Nowhere:
    """In place of the SDK's consumer of measurements, where cells are of no use."""

    _reader_storages = None


_NOWHERE, _NOBODY = _Nowhere(), object()


class Durations:
    """All durations of one histogram. Thread-safe; a child of a fork starts again from nothing."""

    def __init__(
        self,
        histogram: Histogram,
        find: Callable[[Any], Aggregations | None],
        most: int = MOST_CELLS,
    ) -> None:
        """Nothing is asked of the SDK before the first duration, as recording would not either.

        Args:
            histogram: As the meter made it; it may stand for one that is to come.
            find: How to find the SDK's aggregations of it.
            most: How many cells there may be.
        """
        self._histogram = histogram
        self._find = find
        self._most = most
        self._cells: dict[MetricAttributes, Cell] = {}
        self._full = _Full(self, ())
        self._aggregations: Aggregations | None = None
        self._lock = threading.RLock()
        self._turn_away()
        self._has_given_up = False

    def _turn_away(self) -> None:
        """Let no cell take durations."""
        self.consumer: Any = _NOWHERE
        """Of the SDK; cells take durations while its readers are the ones that were found."""
        self.readers: Any = _NOBODY

    def cell(self, attributes: MetricAttributes) -> Cell:
        """The cell of these attributes, also while cells are of no use."""
        found = self._cells.get(attributes)
        return self._new_cell(attributes) if found is None else found

    def _new_cell(self, attributes: MetricAttributes) -> Cell:
        with self._lock:
            if attributes not in self._cells and len(self._cells) >= self._most:
                self._give_up()
                return self._full
            return self._cells.setdefault(attributes, Cell(self, attributes))

    def record(self, seconds: float, attributes: MetricAttributes, context: Context) -> None:
        """Record a duration that was measured in a context."""
        if self._are_collected():
            if self.cell(attributes).add(seconds, _sampled(context)):
                return
            self._merge()  # for it came first
        self._histogram.record(seconds, dict(attributes), context)

    def on_collect(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Hand over what the cells hold: a callback of an observable instrument. Never raises."""
        if self._aggregations is not None:
            self._are_collected()
            self._merge()
        return ()

    def begin_again(self) -> None:
        """Hold nothing, in the child of a fork: what was measured is the parent's to tell."""
        self._lock = threading.RLock()
        for cell in self._cells.values():
            cell.begin_again()

    def _are_collected(self) -> bool:
        """Whether cells take durations; finds out where that may have changed."""
        if self.readers is self.consumer._reader_storages:  # noqa: SLF001
            return True
        return not self._has_given_up and self._is_found()

    def _is_found(self) -> bool:
        """Find the aggregations, for the first time or because the readers have changed."""
        instrument = behind(self._histogram)
        if instrument is None:
            return False
        with self._lock:
            self._merge()  # what is in cells is not for readers that came later
            found = None if self._has_given_up else self._find(instrument)
            if found is None:
                self._give_up()
            elif found.ask(self.on_collect):
                self._aggregations = found
                self.consumer, self.readers = found.consumer, found.readers
                return True
        return False

    def _give_up(self) -> None:
        """Record by the histogram from now on; first what is in cells, for it came first."""
        self._has_given_up = True
        self._turn_away()
        self._merge()

    def _merge(self) -> None:
        """Move what is in cells into the SDK's aggregations, in the order in which it began."""
        with self._lock:
            if self._aggregations is None:
                return
            try:
                held = [cell.take() for cell in list(self._cells.values()) if cell.since]
                for measured in sorted(held, key=lambda each: each.since):
                    self._aggregations.merge(measured)
            except Exception:  # noqa: BLE001 - of an SDK that looked as known
                faults.report("merging durations into the SDK's")
                self._aggregations = None
                self._give_up()


def behind(instrument: Any) -> Any:
    """The instrument that one of the API's proxies stands for; None while no provider is set."""
    return getattr(instrument, "_real_instrument", instrument)


def _sampled(context: Context) -> SpanContext | None:
    """The span context that an exemplar is about; None where the span is not sampled.

    An empty context stands for the current one, as it does when a histogram records.
    """
    span_context = get_current_span(context or None).get_span_context()
    return span_context if span_context.trace_flags.sampled else None
