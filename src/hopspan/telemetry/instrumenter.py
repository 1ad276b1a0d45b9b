"""The instrumenter: one `Config`, compiled. Nothing of it is looked up again for a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from hopspan import conventions as names
from hopspan.model import OperationType
from hopspan.propagation import check_propagators
from hopspan.propagation.baggage import names_of
from hopspan.telemetry.attributes import SpanAttributes
from hopspan.telemetry.enabled import Enabled, Switch, has_no_sdk, ignoring
from hopspan.telemetry.exceptions import Exceptions
from hopspan.telemetry.metrics import Meters
from hopspan.telemetry.sampling import unsampled, unsampled_root
from hopspan.telemetry.spans import UNRECORDED, with_readable_status
from hopspan.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from hopspan.config import Config, Hook
    from hopspan.conventions import Plan
    from hopspan.model import Endpoint, Outcome, Verdict
    from hopspan.propagation import Codec
    from hopspan.propagation.baggage import Names
    from hopspan.telemetry.exceptions import Recorded
    from hopspan.telemetry.sampling import Unsampled
    from hopspan.telemetry.spans import LateSpan


class Instrumenter:
    """The settings of one `Config`, ready for use. Shared by all threads and tasks."""

    __slots__ = (
        "_attributes", "_tracer", "allowed", "config", "describes_more", "enabled", "exceptions",
        "is_ignored", "is_watched", "may_be_unobserved", "measures", "meters",
        "on_end", "on_start", "recorded", "relates_plainly", "span_class", "start_span", "switch",
        "unsampled_local", "unsampled_remote", "unsampled_root",
    )  # fmt: skip

    def __init__(self, config: Config, switch: Switch | None = None) -> None:
        check_propagators()
        self.config: Config = config
        self.switch: Switch = switch or Switch()
        self.meters: Meters = Meters(config.meter_provider, config.metrics, config.baggage_metrics)
        self.measures: bool = self.meters.any
        self.exceptions: Exceptions = Exceptions(config)
        self.allowed: Names | None = names_of(config.baggage_allow)
        """The baggage entries that may leave; None for all of them."""
        self._attributes = SpanAttributes(config)
        self.describes_more: bool = self._attributes.any
        self.is_ignored: Callable[[Endpoint], bool] | None = ignoring(config.ignore)
        self.is_watched: bool = config.on_start is not None or config.on_end is not None
        self.enabled: Enabled = Enabled(config)
        self.may_be_unobserved: bool = self.enabled.may_be_unobserved
        """Whether nobody but an SDK that is not there yet could observe an operation."""
        self.on_start: Hook | None = config.on_start
        self.on_end: Hook | None = config.on_end
        self.recorded: frozenset[Verdict] = self.enabled.recorded
        """The verdicts whose settlement always gets a span."""
        self.relates_plainly: bool = (
            config.correlation == "auto" and config.trust and not config.ignore
        )
        """Whether a plain `traceparent` relates a message without any setting looked up."""
        self.span_class: type | None = None
        """The class of this tracer's spans, once it is known that their status can be read."""
        self.unsampled_remote: Unsampled | None = None
        """How to make the span of an unsampled sender, where it need not be started."""
        self.unsampled_local: Unsampled | None = None
        """The same for an unsampled span of this process."""
        self.unsampled_root: Callable[[], LateSpan] | None = None
        """The same for a span without a parent."""
        self._tracer: Any = trace.get_tracer(
            "hopspan", VERSION, config.tracer_provider, names.SCHEMA_URL
        )
        self.start_span: Callable[..., Span] = self._tracer.start_span
        if config.tracer_provider is not None:
            self._resolve()
        else:
            self.start_span = self._start_first

    def with_settings(self, settings: Mapping[str, Any]) -> Instrumenter:
        """An instrumenter with some settings replaced; this one where there are none."""
        return Instrumenter(self.config.override(settings), self.switch) if settings else self

    # -- spans -----------------------------------------------------------------------------------

    def _start_first(self, *args: Any) -> Span:
        """Start a span; where the global SDK is there by now, by its own tracer from now on."""
        if not has_no_sdk():
            self._tracer = trace.get_tracer_provider().get_tracer(
                "hopspan", VERSION, schema_url=names.SCHEMA_URL
            )
            self._resolve()
        span: Span = self._tracer.start_span(*args)
        return span

    def _resolve(self) -> None:
        self.unsampled_remote = unsampled(self._tracer, remote=True)
        self.unsampled_local = unsampled(self._tracer, remote=False)
        self.unsampled_root = unsampled_root(self._tracer)
        self.start_span = self._tracer.start_span

    def readable(self, span: Span, parent: Context, plan: Plan) -> Span:
        """The span or a stand-in whose status can be read, where anything depends on that.

        The class of spans that tell their status is remembered: theirs is not asked about again.
        """
        is_needed = plan.status_matters or self.is_watched
        readable = with_readable_status(span, parent, is_needed=is_needed)
        if readable is span and hasattr(type(span), "status") and type(span) not in UNRECORDED:
            self.span_class = type(span)
        return readable

    def is_unobserved(self) -> bool:
        """Whether nobody observes anything, so far."""
        return self.may_be_unobserved and has_no_sdk()

    def not_ignored(self, deliveries: Sequence[Any]) -> Sequence[Any]:
        """The deliveries without those of an ignored destination."""
        is_ignored = self.is_ignored
        if is_ignored is None:
            return deliveries
        return [each for each in deliveries if not is_ignored(each.endpoint)]

    # -- attributes and metrics ------------------------------------------------------------------

    def describe(
        self,
        plan: Plan,
        attributes: dict[str, Any],
        message: Any,
        codec: Codec,
        carried: Context,
    ) -> dict[str, Any]:
        """Add what the settings ask for to the attributes of a span about one message."""
        about = (message.headers, message.key)
        return self._attributes.for_message(plan, attributes, about, codec, carried)

    def describe_outgoing(
        self,
        plan: Plan,
        attributes: dict[str, Any],
        about: tuple[Any, tuple[str, str] | None],
        codec: Codec,
        carried: Context,
    ) -> dict[str, Any]:
        """The same for a message about to leave, given as `(headers, key)`."""
        return self._attributes.for_message(plan, attributes, about, codec, carried)

    def describe_several(
        self, plan: Plan, attributes: Mapping[str, Any], carried: Context
    ) -> dict[str, Any]:
        """The attributes of a span about several messages, or about none."""
        return self._attributes.for_any(plan, {**plan.attributes, **attributes}, carried)

    def measure(
        self, plan: Plan, operation: Recorded, outcome: Outcome, seconds: float, messages: int
    ) -> None:
        """Record what a finished operation adds to the metrics."""
        meters, error_type = self.meters, outcome.error_type
        if error_type is None:
            sampled = None
            if type(operation.span) not in UNRECORDED:
                identity = operation.span.get_span_context()
                sampled = identity if identity[3] & 1 else None
            if meters.prepared(plan).succeeded(seconds, sampled, messages):
                return
        context, kind = operation.context, plan.action.type
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
