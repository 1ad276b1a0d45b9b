"""Whether an operation is observed at all: an SDK, suppression, ignored destinations, the switch.

An operation that nobody observes is skipped as far as its message allows it.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.context import set_value

from hopspan.model import Verdict
from hopspan.propagation import carries_only_context
from hopspan.telemetry.context import get_current

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context

    from hopspan.config import Config
    from hopspan.model import Endpoint

_metrics = getattr(metrics, "_internal", None)

try:
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY as _SUPPRESS
except ImportError:  # pragma: no cover - private, and may go
    _SUPPRESS = "suppress_instrumentation"
_SUPPRESS_PLAIN = "suppress_instrumentation"


def has_no_sdk() -> bool:
    """Whether neither traces nor metrics go anywhere, so far.

    Every publish asks this, and `get_tracer_provider` takes too long for that. The names are
    private to the API: where one is missing, an SDK is taken to be there.
    """
    return (
        getattr(trace, "_TRACER_PROVIDER", trace) is None
        and getattr(_metrics, "_METER_PROVIDER", metrics) is None
    )


def is_suppressed(context: Context) -> bool:
    """Whether the user asked instrumentations to be silent (`suppress_instrumentation`)."""
    return bool(context.get(_SUPPRESS) or context.get(_SUPPRESS_PLAIN))


def without_nested(context: Context) -> Context:
    """A context in which instrumentations of what a client uses inside are silent."""
    return set_value(_SUPPRESS, True, context)


class Switch:
    """The switch that turns off everything one `instrument` call started, on live objects too."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on: bool = True


_RECORDED = {
    "all": frozenset(Verdict),
    "notable": frozenset({Verdict.REQUEUE, Verdict.REJECT}),
    "none": frozenset[Verdict](),
}


class Enabled:
    """The observers of one `Config`'s operations. Immutable; safe for all threads."""

    __slots__ = (
        "_is_bounded", "_measures", "_observes", "_settlements", "may_be_unobserved", "recorded",
    )  # fmt: skip

    def __init__(self, config: Config) -> None:
        given = (config.tracer_provider, config.meter_provider, config.on_start, config.on_end)
        self.may_be_unobserved: bool = (
            all(each is None for each in given) and config.exceptions == "event"
        )
        """Whether nobody but an SDK that is not there yet could observe an operation."""
        self._is_bounded = config.baggage_allow is not None
        self._settlements = config.settle_spans != "none"
        self.recorded: frozenset[Verdict] = _RECORDED[config.settle_spans]
        """The verdicts whose settlement always gets a span."""
        self._measures = bool(config.metrics)
        self._observes = (
            (self._measures and config.meter_provider is not None)
            or config.on_end is not None
            or config.exceptions != "event"
        )

    def is_unobserved(self) -> bool:
        """Whether nobody observes anything, so far."""
        return self.may_be_unobserved and has_no_sdk()

    def records_settlement(self, verdict: Verdict, *, notable: bool = False) -> bool:
        """Whether a settlement gets a span; `notable`: whatever its verdict."""
        return verdict in self.recorded or (notable and self._settlements)

    def publish_is_noop(self) -> bool:
        """Whether a publish is unobserved and nothing is current that its message could carry.

        The message may still hold baggage that may not leave, and a propagator of the application's
        own may know what to write from elsewhere.
        """
        return (
            self.may_be_unobserved  # `is_unobserved`, without the call: a publish costs only this
            and not self._is_bounded
            and has_no_sdk()
            and not get_current()
            and carries_only_context()
        )

    def observes_unrecorded(self) -> bool:
        """Whether somebody observes an operation whose span is not recorded."""
        return self._observes or (self._measures and not has_no_sdk())


def ignoring(patterns: Sequence[str]) -> Callable[[Endpoint], bool] | None:
    """Whether an endpoint's destination or template matches a pattern; None without patterns."""
    if not patterns:
        return None
    matches = re.compile("|".join(map(fnmatch.translate, patterns))).match

    @lru_cache(maxsize=1024)  # reply queues and per-user keys are endless
    def is_ignored(endpoint: Endpoint) -> bool:
        names = (endpoint.destination, endpoint.template)
        return any(each is not None and matches(each) is not None for each in names)

    return is_ignored
