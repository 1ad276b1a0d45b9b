"""The instrumenter: starts operations, with all that is known of them at their start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, SpanContext, SpanKind

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Action, plan
from hopspan.entries import names_of
from hopspan.model import Delivery, Endpoint, OperationType
from hopspan.propagation import (
    Codec,
    carries_context,
    check_propagators,
    emptied,
    inject_into,
    narrowed,
)
from hopspan.telemetry.audience import Audience, Switch
from hopspan.telemetry.describing import Description, of_settlement
from hopspan.telemetry.exceptions import Exceptions
from hopspan.telemetry.foreign import telling
from hopspan.telemetry.ignoring import ignoring
from hopspan.telemetry.links import batch, links_to_senders, links_to_spans
from hopspan.telemetry.metrics import Meters
from hopspan.telemetry.parents import of_batch, of_message, with_baggage_of
from hopspan.telemetry.several import common_endpoint
from hopspan.telemetry.spans import Operation, silent
from hopspan.telemetry.suppression import is_suppressed
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hopspan.config import Config
    from hopspan.conventions import Plan
    from hopspan.entries import Names
    from hopspan.model import Leaving, Outcome, Settlement
    from hopspan.telemetry.parents import Relation


_NOTHING = Context()
"""What a pushed delivery starts from. Contexts do not change."""
_NO_LINKS: Sequence[Link] = ()


class Instrumenter:
    """Starts operations as one `Config` wants them."""

    __slots__ = (
        "_description", "_is_ignored", "_is_watched", "_tracer", "allowed", "audience", "config",
        "exceptions", "meters", "switch",
    )  # fmt: skip

    def __init__(self, config: Config, switch: Switch | None = None) -> None:
        check_propagators()
        self.config: Config = config
        self.switch: Switch = switch or Switch()
        self.meters: Meters = Meters(config.meter_provider, config.metrics, config.baggage_metrics)
        self._tracer = trace.get_tracer(
            "hopspan", VERSION, config.tracer_provider, names.SCHEMA_URL
        )
        self.exceptions: Exceptions = Exceptions(config)
        self.allowed: Names | None = names_of(config.baggage_allow)
        self._description = Description(config)
        self._is_ignored = ignoring(config.ignore)
        self._is_watched = config.on_start is not None or config.on_end is not None
        self.audience: Audience = Audience(config)

    def with_settings(self, settings: Mapping[str, Any]) -> Instrumenter:
        """An instrumenter with some settings replaced; this one where there are none."""
        return Instrumenter(self.config.override(settings), self.switch) if settings else self

    # -- sending ---------------------------------------------------------------------------------

    def start_send(self, action: Action, outgoing: Leaving, codec: Codec) -> tuple[Operation, Any]:
        """Start a publish operation; return it with the headers that carry its context.

        The span is a child of what is current. A context that the message brings is replaced, or
        kept and linked to under `keep_context` (messaging spans, *Context propagation*).
        """
        endpoint, message, headers, _ = outgoing
        ambient, links, kind = get_current(), _NO_LINKS, None
        kept = self.config.keep_context and carries_context(codec, headers)
        if kept:
            kind, links = SpanKind.CLIENT, links_to_senders([headers], codec, self.config.trust)
        planned = plan(action, endpoint)
        attributes = self._description.of_message(planned, message, headers, codec, ambient)
        operation = self._start(planned, (ambient, ambient, links), attributes, kind=kind)
        if operation.plan is None or (kept and self.allowed is None):
            return operation, headers
        try:
            if kept and self.allowed is not None:
                return operation, narrowed(codec, headers, self.allowed)
            return operation, inject_into(codec, headers, ambient, self.allowed, operation.span)
        except Exception:  # noqa: BLE001 - better without context than not at all
            faults.report("injecting context into message headers")
            return operation, emptied(codec, headers, self.allowed)

    # -- receiving -------------------------------------------------------------------------------

    def traced(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Those of them that are not of an ignored destination."""
        if self._is_ignored is None:
            return deliveries
        return [each for each in deliveries if not self._is_ignored(each.endpoint)]

    def start_receive(
        self,
        action: Action,
        endpoint: Endpoint,
        deliveries: Sequence[Delivery],
        codec: Codec,
        began: int,
    ) -> Operation:
        """A receive operation that began at a time (ns since the epoch) and brought messages.

        Child of what is current, linked to every message, never parented by one.
        """
        ambient = carried = get_current()
        about, links = batch(deliveries, codec, trust=self.config.trust)
        if len(deliveries) != 1:
            relation = (ambient, ambient, links)
            return self.start(action, endpoint, relation, about if deliveries else {}, began)
        message, headers = deliveries[0].message, deliveries[0].headers
        if self.config.baggage_attributes or self.config.baggage_metrics:
            carried = with_baggage_of(self.config, headers, codec, ambient)
        planned = plan(action, endpoint)
        attributes = self._description.of_message(planned, message, headers, codec, carried)
        return self._start(planned, (ambient, carried, links), attributes, began)

    # -- processing ------------------------------------------------------------------------------

    def start_process(
        self,
        deliveries: Sequence[Delivery],
        codec: Codec,
        *,
        pushed: bool,
        ambient: Context | None = None,
    ) -> Operation:
        """Start the processing of one message or of a batch.

        Args:
            deliveries: One, or several that are handled as one.
            codec: How to read their headers.
            pushed: The client called the handler; what is current then is an accident of where the
                channel was opened, so the processing starts from an empty context.
            ambient: What is current; looked up when omitted.
        """
        ambient = get_current() if ambient is None else ambient
        if self._is_ignored is not None:
            deliveries = self.traced(deliveries)
        if not deliveries or (ambient and is_suppressed(ambient)):
            return silent(ambient)
        base = _NOTHING if pushed else ambient
        try:
            return self._start_process(deliveries, codec, base)
        except Exception:  # noqa: BLE001 - the handler runs, its message is settled
            faults.report("starting a process span")
            return silent(base)

    def _start_process(
        self, deliveries: Sequence[Delivery], codec: Codec, base: Context
    ) -> Operation:
        if len(deliveries) > 1:
            about, relation = of_batch(self.config, deliveries, codec, base)
            return self.start(names.PROCESS, common_endpoint(deliveries), relation, about)
        delivery = deliveries[0]
        relation = of_message(self.config, delivery.headers, codec, base)
        if self.audience.is_nobody():
            return silent(relation[1], relation[0])
        planned = plan(names.PROCESS, delivery.endpoint)
        attributes = self._description.of_delivery(planned, delivery, codec, relation[1])
        return self._start(planned, relation, attributes)

    # -- settling --------------------------------------------------------------------------------

    def record_settle(
        self,
        name: str,
        settlement: Settlement,
        deliveries: Sequence[Delivery],
        outcome: Outcome,
        timing: tuple[int, float],
        *,
        inside: Context | None = None,
        of: Sequence[SpanContext] = (),
        endpoint: Endpoint | None = None,
        always: bool = False,
    ) -> None:
        """Record a settlement that has been sent, or has failed, if the settings find it notable.

        Args:
            name: What the system calls it: `ack`, `nack`.
            settlement: What was sent.
            deliveries: The deliveries that it settled.
            outcome: Whether it could be sent.
            timing: When it began (ns since the epoch) and how long it took (s).
            inside: The context of the process span that it is part of; the current one when
                omitted.
            of: Process spans that are over already; they are linked to.
            endpoint: Where the deliveries came from; looked up in them when omitted.
            always: It is notable whatever its verdict.
        """
        is_told = self.audience.tells_of(settlement.verdict, notable=always or outcome.failed)
        if not is_told or (deliveries and not self.traced(deliveries)):
            return
        context = get_current() if inside is None else inside
        operation = self.start(
            Action(name, OperationType.SETTLE),
            endpoint or common_endpoint(deliveries),
            (context, context, links_to_spans(of) if of else ()),
            of_settlement(settlement, deliveries),
            start_time=timing[0],
        )
        operation.announce(None)
        operation.end(outcome, seconds=timing[1])

    # -- in common -------------------------------------------------------------------------------

    def start(
        self,
        action: Action,
        endpoint: Endpoint,
        relation: Relation,
        about: Mapping[str, Any],
        start_time: int | None = None,
    ) -> Operation:
        """Start an operation on no message, or on several, of which `about` says something."""
        planned = plan(action, endpoint)
        attributes = self._description.of_several(planned, about, relation[1])
        return self._start(planned, relation, attributes, start_time)

    def _start(
        self,
        planned: Plan,
        relation: Relation,
        attributes: dict[str, Any],
        start_time: int | None = None,
        kind: SpanKind | None = None,
    ) -> Operation:
        """Start a span, and make it the current one of the context that the operation carries."""
        parent, carried, links = relation
        if not self.switch.on or (parent and is_suppressed(parent)):
            return silent(carried)
        if self._is_ignored is not None and self._is_ignored(planned.endpoint):
            return silent(carried)
        try:
            span = self._tracer.start_span(
                planned.name,
                parent,
                planned.kind if kind is None else kind,
                attributes,
                links,
                start_time,
                record_exception=False,
                set_status_on_exception=False,
            )
            span = telling(span, parent, planned.decides or self._is_watched)
        except Exception:  # noqa: BLE001 - a sampler or a processor that raises, say
            faults.report(f"starting a {planned.action.type.value} span")
            return silent(carried)
        return Operation(self, planned, span, carried)
