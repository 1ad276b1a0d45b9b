"""Whether anybody hears of an operation: where nobody does, it need not be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.context import get_current

from hopspan.model import Verdict
from hopspan.propagation import carries_only_context

if TYPE_CHECKING:
    from hopspan.config import Config

_metrics = getattr(metrics, "_internal", None)


def has_no_sdk() -> bool:
    """Whether neither traces nor metrics go anywhere, so far.

    Asked at every publish, for which `get_tracer_provider` takes too long. Private to the API:
    where a name is missing, an SDK is taken to be there.
    """
    return (
        getattr(trace, "_TRACER_PROVIDER", trace) is None
        and getattr(_metrics, "_METER_PROVIDER", metrics) is None
    )


class Switch:
    """Turns off all that was started for one `instrument` call, on live objects too."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on: bool = True


_TOLD = {
    "all": frozenset(Verdict),
    "notable": frozenset({Verdict.REQUEUE, Verdict.REJECT}),
    "none": frozenset[Verdict](),
}


class Audience:
    """Who hears of the operations of one `Config`. Immutable; safe for all threads."""

    __slots__ = ("_hears", "_is_bounded", "_may_be_nobody", "_measures", "_settlements", "told")

    def __init__(self, config: Config) -> None:
        given = (config.tracer_provider, config.meter_provider, config.on_start, config.on_end)
        self._may_be_nobody = all(each is None for each in given) and config.exceptions == "event"
        self._is_bounded = config.baggage_allow is not None
        self._settlements = config.settle_spans != "none"
        self.told: frozenset[Verdict] = _TOLD[config.settle_spans]
        """The verdicts that are told in any case."""
        self._measures = bool(config.metrics)
        self._hears = (
            (self._measures and config.meter_provider is not None)
            or config.on_end is not None
            or config.exceptions != "event"
        )

    def is_nobody(self) -> bool:
        """Whether nobody hears of anything, so far."""
        return self._may_be_nobody and has_no_sdk()

    def tells_of(self, verdict: Verdict, *, notable: bool = False) -> bool:
        """Whether a settlement is worth a span; `notable`: whatever its verdict."""
        return verdict in self.told or (notable and self._settlements)

    def has_nothing_to_carry(self) -> bool:
        """Whether nobody hears of a message, and nothing is current that it could carry.

        It may still hold baggage that is not to leave, and a propagator of the application's own
        may know what to write from elsewhere.
        """
        return (
            self._may_be_nobody  # `is_nobody`, without the call: this is all that a publish costs
            and not self._is_bounded
            and has_no_sdk()
            and not get_current()
            and carries_only_context()
        )

    def hears_unrecorded(self) -> bool:
        """Whether somebody hears of an operation whose span is not recorded."""
        return self._hears or (self._measures and not has_no_sdk())
