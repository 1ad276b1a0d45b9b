"""One running operation: its span, its clock, and the status that it ends with.

`Operation` and the instrumenter beside it are the only code that starts or ends spans. An operation
that is not recorded (unsampled, suppressed, no SDK) behaves the same: its span remembers its
status, so that the decision about a message never depends on sampling.
"""

from __future__ import annotations

from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanContext,
    Status,
    StatusCode,
    get_current_span,
)

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import SUCCESS, OperationType, Outcome
from hopspan.telemetry.hooks import call_hook
from hopspan.w3c import SPAN_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hopspan.conventions import Action, Plan
    from hopspan.model import Endpoint
    from hopspan.telemetry.instrumenter import Instrumenter
    from hopspan.telemetry.metrics import Meters

OTHER_ERROR = "_OTHER"
"""The conventions' `error.type` for a failure whose kind is not known."""


_UNSET = Status()
_NONE: Mapping[str, Any] = MappingProxyType({})


class RememberingSpan(Span):
    """A span that records nothing but its status, and the kind of its failure.

    Made current in place of a non-recording span, which forgets. It implements the API's `Span`
    rather than `NonRecordingSpan`: with no SDK installed, the API hands a current
    `NonRecordingSpan` out again as every nested span, and a status that was set on a nested span
    must not count as the handler's. Precedence of statuses is the SDK's: OK is final, UNSET is
    ignored.
    """

    __slots__ = ("_context", "attributes", "status")

    def __init__(self, context: SpanContext) -> None:
        self._context = context
        self.status: Status = _UNSET
        self.attributes: Mapping[str, Any] = _NONE

    def get_span_context(self) -> SpanContext:
        """Its identity, which is nobody's where there is no SDK."""
        return self._context

    def is_recording(self) -> bool:
        """Whether attributes are worth computing: they are not."""
        return False

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Remember a status."""
        if isinstance(status, StatusCode):
            status = Status(status, description if status is StatusCode.ERROR else None)
        if self.status.status_code is StatusCode.OK or status.status_code is StatusCode.UNSET:
            return
        self.status = status

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Remember the kind of failure, if it is among them."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: Any) -> None:
        """Remember the kind of failure: the outcome's must not depend on sampling."""
        if key == names.ERROR_TYPE:
            self.attributes = {key: value}

    def end(self, end_time: int | None = None) -> None:
        """Forgotten, as are the others below."""

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Forgotten."""

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Forgotten."""

    def update_name(self, name: str) -> None:
        """Forgotten."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Forgotten."""


class Operation:
    """One publish, receive, process or settle operation. Given to the hooks.

    Started by an `Instrumenter`, ended once by whoever started it. Not thread-safe in itself: at
    most one thread at a time works on an operation.
    """

    __slots__ = (
        "_carried", "_context", "_ended", "_instrumenter", "_native", "_started", "plan", "span",
    )  # fmt: skip

    def __init__(
        self, instrumenter: Instrumenter | None, plan: Plan | None, span: Span, carried: Context
    ) -> None:
        self._instrumenter = instrumenter
        self._native: Any = None
        self._started = perf_counter()
        self._ended = False
        self._carried = carried
        self._context: Context | None = None
        self.plan: Plan | None = plan
        """What every operation like this has in common."""
        self.span: Span = span
        """The running span. Where nothing is recorded, and its status decides about a message or
        there are hooks, one that only remembers its status."""

    @property
    def context(self) -> Context:
        """The OpenTelemetry context in which this operation's span is current."""
        if self._context is None:  # a publish without metrics needs none
            self._context = Context({**self._carried, SPAN_KEY: self.span})
        return self._context

    def keep_in_context(self, key: str, value: object) -> Context:
        """Have something more in that context, from the start; return it."""
        self._context = Context({**self._carried, SPAN_KEY: self.span, key: value})
        return self._context

    @property
    def action(self) -> Action | None:
        """Name and type of the operation; None where instrumentation is suppressed."""
        return self.plan.action if self.plan else None

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the message goes to or comes from."""
        return self.plan.endpoint if self.plan else None

    @property
    def is_heard(self) -> bool:
        """Whether anybody will hear how it ends."""
        instrumenter = self._instrumenter
        if instrumenter is None:
            return False
        return self.span.is_recording() or instrumenter.audience.hears_unrecorded()

    def announce(self, native: Any) -> None:
        """Tell the `on_start` hook; remember the native object for `on_end`."""
        self._native = native
        instrumenter = self._instrumenter
        if instrumenter is not None and instrumenter.config.on_start is not None:
            call_hook("on_start", instrumenter.config.on_start, self, native)

    def failed_status(self) -> Outcome:
        """SUCCESS, or the failure that was set as the span's status rather than raised."""
        status: Status | None = getattr(self.span, "status", None)
        if status is None or status is _UNSET or status.status_code is not StatusCode.ERROR:
            return SUCCESS
        attributes = getattr(self.span, "attributes", None) or {}
        kind = attributes.get(names.ERROR_TYPE) or OTHER_ERROR
        return Outcome(failed=True, error_type=kind, description=status.description)

    def elapsed(self) -> float:
        """Seconds since the operation started."""
        return perf_counter() - self._started

    def end(
        self,
        outcome: Outcome = SUCCESS,
        attributes: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        messages: int = 1,
    ) -> None:
        """End the operation once: status, exception, metrics, hook, span. Never raises.

        Args:
            outcome: How it went.
            attributes: What became known only now.
            seconds: The duration, when the clock stopped before now.
            messages: How many messages to count; 0 for those that were counted elsewhere.
        """
        if self._ended:
            return
        self._ended = True
        instrumenter, plan = self._instrumenter, self.plan
        if instrumenter is None or plan is None:
            return
        if instrumenter.meters.any:
            seconds = perf_counter() - self._started if seconds is None else seconds
            try:
                _measure(instrumenter.meters, plan, self.context, outcome, (seconds, messages))
            except Exception:  # noqa: BLE001 - telemetry never harms the message
                faults.report("measuring an operation")
        if outcome.failed or attributes:
            self._tell(outcome, attributes)
        if instrumenter.config.on_end is not None:
            call_hook("on_end", instrumenter.config.on_end, self, self._native)
        try:
            self.span.end()
        except Exception:  # noqa: BLE001
            faults.report("ending a span")

    def _tell(self, outcome: Outcome, attributes: Mapping[str, Any] | None) -> None:
        """Of what became known only now."""
        try:
            if attributes and type(self.span) is not RememberingSpan:
                self.span.set_attributes(attributes)
            if outcome.failed:
                self._record(outcome)
        except Exception:  # noqa: BLE001 - nor the metrics the span
            faults.report("recording how an operation ended")

    def _record(self, outcome: Outcome) -> None:
        if self.span.is_recording():
            if outcome.error_type is not None:
                self.span.set_attribute(names.ERROR_TYPE, outcome.error_type)
            self.span.set_status(Status(StatusCode.ERROR, outcome.description))
        if outcome.error is not None and self._instrumenter is not None:
            self._instrumenter.exceptions.record(self, outcome.error)


def silent(context: Context, parent: Context | None = None) -> Operation:
    """An operation that is not to be seen: suppressed, heard by nobody, or not to be started.

    What runs inside it goes on in the trace that is there, and its status is remembered all the
    same.
    """
    within = context if parent is None else parent
    span = RememberingSpan(get_current_span(within).get_span_context())
    return Operation(None, None, span, context)


def _measure(
    meters: Meters, plan: Plan, context: Context, outcome: Outcome, measured: tuple[float, int]
) -> None:
    (seconds, messages), error_type, kind = measured, outcome.error_type, plan.action.type
    if kind is OperationType.PROCESS:
        meters.processing(plan, seconds, error_type, context)
        if messages:
            meters.consumed(plan, messages, error_type, context)
    elif kind is not OperationType.INTERNAL:
        meters.client_operation(plan, seconds, error_type, context)
        if messages and kind is OperationType.SEND:
            meters.sent(plan, messages, error_type, context)
        elif messages and kind is OperationType.RECEIVE:
            meters.consumed(plan, messages, error_type, context)
