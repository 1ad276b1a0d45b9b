"""The instrumenter: starts operations, and chooses their parents and links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import INVALID_SPAN, Link, SpanContext, SpanKind

from hopspan import conventions as names
from hopspan import faults
from hopspan.conventions import Action, plan
from hopspan.model import Delivery, Endpoint, OperationType, Verdict
from hopspan.propagation import Codec, carries_context, extract_from, inject_into
from hopspan.telemetry.exceptions import Exceptions
from hopspan.telemetry.foreign import WatchedSpan
from hopspan.telemetry.links import batch, common_endpoint, links_to_senders, links_to_spans
from hopspan.telemetry.metrics import Meters
from hopspan.telemetry.spans import Operation, RememberingSpan, silent
from hopspan.telemetry.suppression import is_suppressed
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hopspan.config import Config
    from hopspan.model import Outcome, Outgoing, Settlement


class Switch:
    """Turns off all that was started for one `instrument` call, on live objects too."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on: bool = True


class Instrumenter:
    """Starts operations as one `Config` wants them."""

    __slots__ = ("_tracer", "config", "exceptions", "meters", "switch")

    def __init__(self, config: Config, switch: Switch | None = None) -> None:
        self.config: Config = config
        self.switch: Switch = switch or Switch()
        self.meters: Meters = Meters(config.meter_provider, config.metrics)
        self._tracer = trace.get_tracer(
            "hopspan", VERSION, config.tracer_provider, names.SCHEMA_URL
        )
        self.exceptions: Exceptions = Exceptions(config)

    def with_settings(self, settings: Mapping[str, Any]) -> Instrumenter:
        """An instrumenter with some settings replaced; this one where there are none."""
        return Instrumenter(self.config.override(settings), self.switch) if settings else self

    # -- sending ---------------------------------------------------------------------------------

    def start_send(self, action: Action, outgoing: Outgoing, codec: Codec) -> tuple[Operation, Any]:
        """Start a publish operation; return it with the headers that carry its context.

        The span is a child of what is current. A context that the message brings is replaced, or
        kept and linked to under `keep_context` (messaging spans, *Context propagation*).
        """
        ambient = get_current()
        endpoint, headers = outgoing.endpoint, outgoing.headers
        kept = self.config.keep_context and carries_context(codec, headers)
        kept_links = links_to_senders([headers], codec) if kept else ()
        operation = self._start(
            action,
            endpoint,
            ambient,
            ambient,
            names.message_attributes(outgoing.message, with_key=self.config.message_key),
            links=kept_links,
            kind=SpanKind.CLIENT if kept else None,
        )
        if kept or operation.plan is None:
            return operation, headers
        try:
            return operation, inject_into(codec, headers, operation.context)
        except Exception:  # noqa: BLE001 - better without context than not at all
            faults.report("injecting context into message headers")
            return operation, headers

    # -- receiving -------------------------------------------------------------------------------

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
        ambient = get_current()
        attributes, sources = batch(deliveries, codec)
        if len(deliveries) == 1:
            attributes = names.message_attributes(
                deliveries[0].message, with_key=self.config.message_key
            )
        elif not deliveries:
            attributes = {}
        return self._start(
            action, endpoint, ambient, ambient, attributes, links=sources, start_time=began
        )

    # -- processing ------------------------------------------------------------------------------

    def start_process(
        self, deliveries: Sequence[Delivery], codec: Codec, *, pushed: bool
    ) -> Operation:
        """Start the processing of one message or of a batch.

        Args:
            deliveries: One, or several that are handled as one.
            codec: How to read their headers.
            pushed: The client called the handler; what is current then is an accident of where the
                channel was opened, so the processing starts from an empty context.
        """
        ambient = get_current()
        if is_suppressed(ambient):
            return silent(ambient)
        base = Context() if pushed else ambient
        try:
            return self._start_process(deliveries, codec, base)
        except Exception:  # noqa: BLE001 - the handler runs, its message is settled
            faults.report("starting a process span")
            return silent(base)

    def _start_process(
        self, deliveries: Sequence[Delivery], codec: Codec, base: Context
    ) -> Operation:
        if len(deliveries) > 1:
            return self._start_batch(deliveries, codec, base)
        delivery = deliveries[0]
        attributes = names.message_attributes(delivery.message, with_key=self.config.message_key)
        attributes.update(names.delivery_attributes(delivery.attempt, delivery.redelivered))
        correlation = self.config.correlation
        carried = base if correlation == "none" else extract_from(codec, delivery.headers, base)
        ambient_span = trace.get_current_span(base)
        remote = trace.get_current_span(carried)
        sender: Sequence[Link] = ()
        parent = carried
        if remote is not ambient_span:
            sender = (Link(remote.get_span_context()),)
            if correlation == "auto" and ambient_span.get_span_context().is_valid:
                parent = trace.set_span_in_context(ambient_span, carried)
        if correlation == "link":
            parent = trace.set_span_in_context(INVALID_SPAN, carried)
        return self._start(
            names.PROCESS, delivery.endpoint, parent, carried, attributes, links=sender
        )

    def _start_batch(
        self, deliveries: Sequence[Delivery], codec: Codec, base: Context
    ) -> Operation:
        """One span, a link a message, never a parent from one (messaging spans, *Batches*)."""
        attributes, sources = batch(deliveries, codec)
        if self.config.correlation == "none":
            attributes, sources = {names.BATCH_MESSAGE_COUNT: len(deliveries)}, ()
        endpoint = common_endpoint(deliveries)
        parent = (
            trace.set_span_in_context(INVALID_SPAN, base)
            if self.config.correlation == "link"
            else base
        )
        return self._start(names.PROCESS, endpoint, parent, base, attributes, links=sources)

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
        wanted = self.config.settle_spans
        notable = (
            always or outcome.failed or settlement.verdict in {Verdict.REQUEUE, Verdict.REJECT}
        )
        if wanted == "none" or (wanted == "notable" and not notable):
            return
        context = get_current() if inside is None else inside
        attributes = dict(names.settlement_attributes(settlement))
        if len(deliveries) == 1:
            attributes.update(names.settled_attributes(deliveries[0].message))
        elif deliveries:
            attributes[names.BATCH_MESSAGE_COUNT] = len(deliveries)
        action = Action(name, OperationType.SETTLE)
        operation = self._start(
            action,
            endpoint or common_endpoint(deliveries),
            context,
            context,
            attributes,
            links=links_to_spans(of),
            start_time=timing[0],
        )
        operation.announce(None)
        operation.end(outcome, seconds=timing[1])

    # -- in common -------------------------------------------------------------------------------

    def _start(
        self,
        action: Action,
        endpoint: Endpoint,
        parent: Context,
        carried: Context,
        attributes: dict[str, Any],
        *,
        links: Sequence[Link] = (),
        kind: SpanKind | None = None,
        start_time: int | None = None,
    ) -> Operation:
        """Start a span under `parent`; the operation's context is `carried` with the span in it."""
        if not self.switch.on or is_suppressed(parent):
            return silent(carried)
        try:
            planned = plan(action, endpoint)
            span = self._tracer.start_span(
                planned.name,
                context=parent,
                kind=planned.kind if kind is None else kind,
                attributes={**planned.attributes, **attributes},
                links=links,
                start_time=start_time,
                record_exception=False,
                set_status_on_exception=False,
            )
        except Exception:  # noqa: BLE001 - a sampler or a processor that raises, say
            faults.report(f"starting a {action.type.value} span")
            return silent(carried)
        if not span.is_recording():
            told = span.get_span_context()
            if not told.is_valid:  # without an SDK, older releases of the API pass nothing on
                told = trace.get_current_span(parent).get_span_context()
            span = RememberingSpan(told)
        elif not hasattr(span, "status"):  # not the SDK's: whatever makes it may hide its status
            span = WatchedSpan(span)
        return Operation(self, planned, span, trace.set_span_in_context(span, carried))
