"""One operation: a span with a clock, started and ended once; and the user's hooks.

Only this module starts and ends spans. An operation that is not recorded (unsampled, suppressed, no
SDK) behaves the same: its span keeps its status, so that the decision about a message never depends
on sampling.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    Status,
    StatusCode,
    get_current_span,
)

from hopspan import conventions as names
from hopspan import faults
from hopspan.model import SUCCESS, Outcome
from hopspan.propagation import ASK, plain_traceparent, sender_of
from hopspan.propagation.w3c import SPAN_KEY, parse_traceparent
from hopspan.telemetry.context import EMPTY
from hopspan.telemetry.enabled import has_no_sdk, is_suppressed
from hopspan.telemetry.relations import relate
from hopspan.telemetry.spans import UNRECORDED, UNSET, LateSpan, StatusSpan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanKind

    from hopspan.config import Hook
    from hopspan.conventions import Action, Plan, Route
    from hopspan.model import Endpoint
    from hopspan.propagation import Codec
    from hopspan.telemetry.instrumenter import Instrumenter
    from hopspan.telemetry.relations import Relation

OTHER_ERROR = "_OTHER"
"""The conventions' `error.type` for a failure whose kind is not known."""

_ERROR = StatusCode.ERROR


class Operation:
    """One publish, receive, process or settle operation. Given to the hooks.

    It is ended once, by the code that started it. Not thread-safe in itself: at most one thread at
    a time works on an operation.
    """

    __slots__ = ("_began", "_carried", "_native", "instrumenter", "plan", "span")

    instrumenter: Instrumenter | None
    """Its settings; None where nothing is recorded of it, because nobody observes it."""
    plan: Plan | None
    """The common part of every operation like this; None where nobody observes it."""
    span: Span
    """The running span. Where nothing is recorded, and its status decides about a message or there
    are hooks, a stand-in that keeps its status."""
    _carried: Context
    _began: float
    _native: Any

    @property
    def context(self) -> Context:
        """The OpenTelemetry context in which this operation's span is current."""
        return Context({**self._carried, SPAN_KEY: self.span})

    @property
    def action(self) -> Action | None:
        """Name and type of the operation; None where instrumentation is suppressed."""
        return self.plan.action if self.plan else None

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the message goes to or comes from."""
        return self.plan.endpoint if self.plan else None

    # -- starting --------------------------------------------------------------------------------

    def start(  # noqa: PLR0917 - positional, for it is called for every message
        self,
        instrumenter: Instrumenter,
        plan: Plan,
        relation: Relation,
        attributes: dict[str, Any],
        start_time: int | None = None,
        kind: SpanKind | None = None,
    ) -> None:
        """Start the span and the clock. Never raises.

        Args:
            instrumenter: The settings that hold.
            plan: What every operation like this has in common.
            relation: The parent's context, what is carried around the span, and links.
            attributes: All that is known at the start.
            start_time: When it began, in ns since the epoch; now when omitted.
            kind: Another kind than the plan's.
        """
        parent, carried, _ = relation
        if (
            not instrumenter.switch.on
            or (parent and is_suppressed(parent))
            or (instrumenter.is_ignored is not None and instrumenter.is_ignored(plan.endpoint))
        ):
            self.start_unrecorded(carried)
            return
        self._start_recorded(instrumenter, plan, relation, attributes, start_time, kind)

    def _start_recorded(  # noqa: PLR0917 - as `start`
        self,
        instrumenter: Instrumenter,
        plan: Plan,
        relation: Relation,
        attributes: dict[str, Any],
        start_time: int | None = None,
        kind: SpanKind | None = None,
    ) -> None:
        """Start the span and the clock, or an unrecorded one where that fails. Never raises."""
        parent, carried, links = relation
        try:
            span = instrumenter.start_span(
                plan.name,
                parent,
                plan.kind if kind is None else kind,
                attributes,
                links,
                start_time,
                False,
                False,
            )
            if type(span) is not instrumenter.span_class:
                span = instrumenter.readable(span, parent, plan)
        except Exception:  # noqa: BLE001 - a sampler or a processor that raises, say
            faults.report(f"starting a {plan.action.type.value} span")
            self.start_unrecorded(carried)
            return
        self.span, self._carried = span, carried
        self.instrumenter, self.plan = instrumenter, plan
        self._native = None
        self._began = perf_counter()

    def start_unsampled(self, instrumenter: Instrumenter, plan: Plan, ambient: Context) -> bool:
        """Start below an unsampled span, or as an unsampled root; whether it is started."""
        if instrumenter.is_watched:
            return False
        parent: Any = ambient.get(SPAN_KEY) if ambient else None
        if parent is None:
            make_root = instrumenter.unsampled_root
            if make_root is None:
                return False
            self.span = make_root()
        else:
            identity = parent.get_span_context()
            if identity[3] & 1 or not identity[5]:
                return False
            make = instrumenter.unsampled_remote if identity[2] else instrumenter.unsampled_local
            if make is None:
                return False
            self.span = make(identity)
        self._carried = ambient
        self.instrumenter, self.plan = instrumenter, plan
        self._native = None
        self._began = perf_counter()
        return True

    def start_span(
        self, instrumenter: Instrumenter, plan: Plan, parent: Context, attributes: dict[str, Any]
    ) -> None:
        """Start as a child of a context, which is also what is carried. Never raises."""
        try:
            span = instrumenter.start_span(
                plan.name, parent, plan.kind, attributes, (), None, False, False
            )
            kind = type(span)
            if kind is not instrumenter.span_class and (
                kind is not NonRecordingSpan
                or plan.status_matters
                or instrumenter.is_watched
                or not span.get_span_context()[5]
            ):
                span = instrumenter.readable(span, parent, plan)
        except Exception:  # noqa: BLE001 - a sampler or a processor that raises, say
            faults.report(f"starting a {plan.action.type.value} span")
            self.start_unrecorded(parent)
            return
        self.span, self._carried = span, parent
        self.instrumenter, self.plan = instrumenter, plan
        self._native = None
        self._began = perf_counter()

    def start_process(
        self,
        instrumenter: Instrumenter,
        route: Route,
        codec: Codec,
        headers: Any,
        base: Context,
    ) -> None:
        """Start as the processing of one message; `describe` adds what only this message says.

        The common message has a plain `traceparent` or none, and starts from an empty context: of
        that one, no parent, link or attribute is made where no span will show it. Every other
        message takes the general way (`relate`).

        Args:
            instrumenter: The settings that hold.
            route: What messages of this origin have in common.
            codec: How to read the headers.
            headers: The message's.
            base: The context that the processing starts from.
        """
        sender: Any = None
        traceparent: Any = ASK
        if not base and instrumenter.relates_plainly:
            traceparent = plain_traceparent(codec, headers)
        is_unobserved = instrumenter.may_be_unobserved and has_no_sdk()
        if traceparent is not ASK and traceparent is not None:
            if is_unobserved:
                self._start_as(LateSpan(traceparent, sender_of), EMPTY)
                return
            sender = parse_traceparent(traceparent)
            unsampled = instrumenter.unsampled_remote
            if sender is not None and unsampled is not None and not sender[3] & 1:
                self._start_as(unsampled(sender), EMPTY)
                self.instrumenter, self.plan = instrumenter, route.plan
                return
        relation: Relation
        if sender is not None:
            parent = Context({SPAN_KEY: NonRecordingSpan(sender)})
            relation = parent, EMPTY, (Link(sender),)
        elif traceparent is None:
            relation = base, base, ()
        else:
            relation = relate(instrumenter.config, headers, codec, base)
        if is_unobserved:
            self.start_unrecorded(relation[1], relation[0])
            return
        plan, carried = route.plan, relation[1]
        attributes = route.attributes.copy()
        self.describe(attributes)
        if instrumenter.describes_more:
            attributes = instrumenter.describe(plan, attributes, self, codec, carried)
        if instrumenter.switch.on:
            self._start_recorded(instrumenter, plan, relation, attributes)
        else:
            self.start_unrecorded(carried)

    def describe(self, attributes: dict[str, Any]) -> None:
        """Add what only this operation's message says."""

    def start_unrecorded(self, carried: Context, parent: Context | None = None) -> None:
        """Start without a span to be seen: suppressed, unobserved, or not to be started.

        Work inside goes on in the trace that is there, and its status is kept all the same.
        """
        within = carried if parent is None else parent
        self._start_as(StatusSpan(get_current_span(within).get_span_context()), carried)

    def _start_as(self, span: Span, carried: Context) -> None:
        self.span, self._carried = span, carried
        self.instrumenter = self.plan = self._native = None
        self._began = perf_counter()

    # -- while it runs ---------------------------------------------------------------------------

    @property
    def is_observed(self) -> bool:
        """Whether somebody observes how it ends."""
        instrumenter = self.instrumenter
        if instrumenter is None:
            return False
        return self.span.is_recording() or instrumenter.enabled.observes_unrecorded()

    def call_on_start(self, native: Any) -> None:
        """Call the `on_start` hook; keep the native object for `on_end`."""
        self._native = native
        instrumenter = self.instrumenter
        if instrumenter is not None and instrumenter.on_start is not None:
            call_hook("on_start", instrumenter.on_start, self, native)

    def failed_status(self) -> Outcome:
        """SUCCESS, or the failure that was set as the span's status rather than raised."""
        status: Status | None = getattr(self.span, "status", None)
        if status is None or status is UNSET or status.status_code is not _ERROR:
            return SUCCESS
        attributes = getattr(self.span, "attributes", None) or {}
        kind = attributes.get(names.ERROR_TYPE) or OTHER_ERROR
        return Outcome(failed=True, error_type=kind, description=status.description)

    def elapsed(self) -> float:
        """Seconds since the operation started."""
        return perf_counter() - self._began

    # -- ending ----------------------------------------------------------------------------------

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
        instrumenter, plan = self.instrumenter, self.plan
        if instrumenter is None or plan is None:
            return
        self.instrumenter = None  # the second time ends nothing
        span = self.span
        is_recorded = type(span) not in UNRECORDED
        if instrumenter.measures:
            seconds = perf_counter() - self._began if seconds is None else seconds
            try:
                instrumenter.measure(plan, self, outcome, seconds, messages)
            except Exception:  # noqa: BLE001 - telemetry never harms the message
                faults.report("measuring an operation")
        if outcome.failed or (attributes and is_recorded):
            self._set_end_attributes(instrumenter, outcome, attributes)
        if instrumenter.on_end is not None:
            call_hook("on_end", instrumenter.on_end, self, self._native)
        if not is_recorded:
            return
        try:
            span.end()
        except Exception:  # noqa: BLE001
            faults.report("ending a span")

    def _set_end_attributes(
        self, instrumenter: Instrumenter, outcome: Outcome, attributes: Mapping[str, Any] | None
    ) -> None:
        """Record what became known only at the end."""
        span = self.span
        try:
            if attributes and type(span) not in UNRECORDED:
                if len(attributes) == 1:  # half the time that several take
                    ((key, value),) = attributes.items()
                    span.set_attribute(key, value)
                else:
                    span.set_attributes(attributes)
            if outcome.failed:
                if span.is_recording():
                    if outcome.error_type is not None:
                        span.set_attribute(names.ERROR_TYPE, outcome.error_type)
                    span.set_status(Status(_ERROR, outcome.description))
                if outcome.error is not None and self.plan is not None:
                    instrumenter.exceptions.record(self, self.plan, outcome.error)
        except Exception:  # noqa: BLE001 - nor the metrics the span
            faults.report("recording how an operation ended")


_in_hook: ContextVar[bool] = ContextVar("hopspan-in-hook", default=False)


def call_hook(name: str, hook: Hook, operation: Operation, native: Any) -> None:
    """Call a hook; log its errors once, and never raise them.

    A publish of the hook's own is traced, but calls no hook: it would call this one again, for
    ever.
    """
    if _in_hook.get():
        return
    token = _in_hook.set(True)
    try:
        hook(operation, native)
    except Exception:  # noqa: BLE001
        faults.report(f"calling the {name} hook")
    finally:
        _in_hook.reset(token)
