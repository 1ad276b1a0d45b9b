"""The four metrics of the messaging conventions.

Durations and counts are kept in cells of our own (see `durations` and `counts`): adding to one
takes a fraction of the time that recording by an instrument of the SDK takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import baggage

from hopspan import conventions as names
from hopspan.model import OperationType
from hopspan.propagation.baggage import shortened
from hopspan.telemetry.instruments import instruments_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanContext

    from hopspan.conventions import MetricAttributes, Plan
    from hopspan.telemetry.counts import Count, Counts
    from hopspan.telemetry.durations import Cell, Durations

_MOST_PREPARED = 1024


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
